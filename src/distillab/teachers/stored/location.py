"""The folders of a cache location, with the teacher's tokenizer.

location/
  identity.json, shards/, …  the signal on the data set's training rows
  held_out/                  kind full of the held-out rows, for the evaluation
  text/                      the teacher's answers
  answers/                   the signal on the rows with these answers
  tokenizer/                 its tokenizer and config.json, to check a pair without the weights

Each part except the tokenizer is a separate cache with its own identity; each is optional.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Literal

from transformers import PreTrainedConfig, PreTrainedTokenizerFast

from distillab.cache.names import IDENTITY, JOURNALS, SHARDS
from distillab.cache.sources import LocalSource, open_source
from distillab.errors import CacheCorrupt, CacheError, CacheMismatch
from distillab.files import new_folder, remove_leftovers, write_bytes
from distillab.paths import local_path
from distillab.teachers.stored.tokenizer_seal import check_seal, is_sealed, seal

Part = Literal["train", "held_out", "text", "answers"]
PARTS: tuple[Part, ...] = ("train", "held_out", "text", "answers")
TOKENIZER = "tokenizer"
_CONFIG = "config.json"


def part_of(location: str, part: Part) -> str:
    """Return where a part of a cache location is."""
    return location if part == "train" else f"{location.rstrip('/')}/{part}"


def has_part(location: str, part: Part) -> bool:
    """Return whether a location has a part."""
    return open_source(part_of(location, part)).whole(IDENTITY) is not None


def require_location(location: str) -> None:
    """Check that there is a cache.

    Raises:
        CacheMismatch: there is no part of one.
    """
    if not any(has_part(location, part) for part in PARTS):
        raise CacheMismatch(
            "This is no teacher cache.",
            where=location,
            facts=["no identity.json here, nor in held_out/, text/, answers/"],
            fix="give the folder or URL that `distillab cache build` made",
        )


def location_faults(location: str) -> list[CacheError]:
    """Return what is wrong with a location, apart from its parts, which are verified separately.

    A part without identity.json is no longer a part, and no other check would find it. The tokenizer belongs to the
    location: a part that is given alone needs none.
    """
    faults: list[CacheError] = []
    for part in PARTS:
        source = open_source(part_of(location, part))
        left = [*source.files(SHARDS), *source.files(JOURNALS)]
        if left and source.whole(IDENTITY) is None:
            fact = f"{len(left):,} files in {SHARDS}/ and {JOURNALS}/, which cannot be used without it"
            faults.append(
                CacheCorrupt(
                    "A part of the cache has lost its identity.json.",
                    where=source.place(IDENTITY),
                    facts=[fact],
                    fix="restore the file from a copy, or delete the part and build it again",
                )
            )
    source = open_source(location)
    above, _, name = location.rstrip("/").rpartition("/")
    is_part = name in PARTS and any(has_part(above or ".", part) for part in PARTS if part != name)
    if source.whole(f"{TOKENIZER}/{_CONFIG}") is None and not is_part:
        faults.append(_no_tokenizer(location))
    try:
        check_seal(source, TOKENIZER)
    except CacheError as error:
        faults.append(error)
    return faults


def tokenizer_is_sealed(location: str) -> bool:
    """Return whether the location's tokenizer can be checked: not in older versions, nor of single parts."""
    return is_sealed(open_source(location), TOKENIZER)


def keep_tokenizer(folder: Path, tokenizer: PreTrainedTokenizerFast, config: PreTrainedConfig) -> None:
    """Write the teacher's tokenizer and config.json into a cache location; existing files are kept.

    Several builders can do so at the same time: each writes into a temporary folder, and one of them is used.
    """
    there = folder / TOKENIZER
    remove_leftovers(there)
    if there.exists():
        return
    try:
        with new_folder(there) as made:
            tokenizer.save_pretrained(made)
            config.save_pretrained(made)
            seal(made)
    except OSError:  # another builder was faster: a folder that is not empty is not replaced
        if not (there / _CONFIG).is_file():
            raise


def kept_tokenizer(location: str) -> Path:
    """Return the folder with the teacher's tokenizer and config.json; of a remote location, a copy of it.

    Raises:
        CacheCorrupt: the location has none, or its files are not those that were written.
    """
    source = open_source(location)
    if source.whole(f"{TOKENIZER}/{_CONFIG}") is None:
        raise _no_tokenizer(location)
    check_seal(source, TOKENIZER)
    if isinstance(source, LocalSource):
        return local_path(location) / TOKENIZER
    return _copied(location)


def _no_tokenizer(location: str) -> CacheCorrupt:
    return CacheCorrupt(
        "The cache has no tokenizer of its teacher, so the pair cannot be checked.",
        where=location,
        facts=[f"missing: {TOKENIZER}/{_CONFIG}"],
        fix="copy the folder tokenizer/ from where the cache was built, or name the teacher's folder: "
        "teacher: {path: …, cache: …}",
    )


@cache
def _copied(location: str) -> Path:
    source = open_source(location)
    copy = tempfile.TemporaryDirectory(prefix="distillab-tokenizer-")
    _copies.append(copy)  # removed when the process ends
    for file in source.files(TOKENIZER):
        write_bytes(Path(copy.name) / Path(file).name, source.whole(file) or b"")
    return Path(copy.name)


_copies: list[tempfile.TemporaryDirectory[str]] = []

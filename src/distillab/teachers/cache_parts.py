"""What lies where in a cache location, and the teacher's tokenizer that travels with it.

location/
  identity.json, shards/, …  what the teacher said of the data set's training rows
  held_out/                  kind full of the held-out rows, by which students are judged
  text/                      the teacher's own answers
  answers/                   what it said of the rows with its own answers
  tokenizer/                 its tokenizer and config.json: by these a pair is judged without the weights

Each part but the tokenizer is a cache of its own, with its own identity; none of them must be there.
"""

from __future__ import annotations

import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Literal

from transformers import PreTrainedConfig, PreTrainedTokenizerFast

from distillab.cache.names import IDENTITY
from distillab.cache.sources import LocalSource, open_source
from distillab.errors import CacheCorrupt, CacheMismatch
from distillab.places import local_path

Part = Literal["train", "held_out", "text", "answers"]
PARTS: tuple[Part, ...] = ("train", "held_out", "text", "answers")
TOKENIZER = "tokenizer"
_CONFIG = "config.json"


def part_of(location: str, part: Part) -> str:
    """Where a part of a cache location is."""
    return location if part == "train" else f"{location.rstrip('/')}/{part}"


def has_part(location: str, part: Part) -> bool:
    """Whether a location has a part."""
    return open_source(part_of(location, part)).whole(IDENTITY) is not None


def require_location(location: str) -> None:
    """Check that there is a cache at all.

    Raises:
        CacheMismatch: no part of one is there.
    """
    if not any(has_part(location, part) for part in PARTS):
        raise CacheMismatch(
            "This is no teacher cache.",
            where=location,
            facts=["no identity.json here, nor in held_out/, text/, answers/"],
            fix="give the folder or URL that `distillab cache build` made",
        )


def keep_tokenizer(folder: Path, tokenizer: PreTrainedTokenizerFast, config: PreTrainedConfig) -> None:
    """Write the teacher's tokenizer and config.json into a cache location; what is there already stays.

    Several builders may do so at the same time: each writes into a folder of its own, and one of them is taken.
    """
    there = folder / TOKENIZER
    if there.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{TOKENIZER}-", dir=folder) as made:
        new = Path(made) / TOKENIZER
        tokenizer.save_pretrained(new)
        config.save_pretrained(new)
        try:
            new.rename(there)
        except OSError:  # another builder was faster: a folder that is not empty is not replaced
            if not (there / _CONFIG).is_file():
                raise


def remove_leftovers(folder: Path) -> None:
    """Remove what killed builders have left of writing the tokenizer; for a location that nobody builds any more."""
    for left in folder.glob(f".{TOKENIZER}-*"):
        shutil.rmtree(left)


def kept_tokenizer(location: str) -> Path:
    """The folder with the teacher's tokenizer and config.json; of a remote location, a copy of it.

    Raises:
        CacheCorrupt: the location has none.
    """
    source = open_source(location)
    if source.whole(f"{TOKENIZER}/{_CONFIG}") is None:
        raise CacheCorrupt(
            "The cache has no tokenizer of its teacher, so the pair cannot be judged.",
            where=location,
            facts=[f"missing: {TOKENIZER}/{_CONFIG}"],
            fix="copy the folder tokenizer/ from where the cache was built, or name the teacher's folder: "
            "teacher: {path: …, cache: …}",
        )
    if isinstance(source, LocalSource):
        return local_path(location) / TOKENIZER
    return _copied(location)


@cache
def _copied(location: str) -> Path:
    source = open_source(location)
    copy = tempfile.TemporaryDirectory(prefix="distillab-tokenizer-")
    _copies.append(copy)  # removed when the process ends
    for file in source.files(TOKENIZER):
        (Path(copy.name) / Path(file).name).write_bytes(source.whole(file) or b"")
    return Path(copy.name)


_copies: list[tempfile.TemporaryDirectory[str]] = []

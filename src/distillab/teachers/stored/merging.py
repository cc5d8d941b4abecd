"""Merge whole cache locations: every part that any of them has, and the teacher's tokenizer."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from distillab.cache.merge import merge
from distillab.cache.sources import LocalSource
from distillab.errors import CacheMismatch
from distillab.files import new_folder, remove_leftovers
from distillab.teachers.stored.location import PARTS, TOKENIZER, has_part, part_of, require_location
from distillab.teachers.stored.tokenizer_seal import SEAL, check_seal


def merge_locations(into: Path, locations: Sequence[Path]) -> None:
    """Make `into` a cache location with the parts of all others. Only the tokenizer, which is small, is copied.

    Raises:
        CacheMismatch: a location is no cache, parts of one name are of different identities, or the tokenizers differ.
        CacheCorrupt: the lists of a part, or the files of a tokenizer, are damaged.
    """
    for location in locations:
        require_location(str(location))
    for part in PARTS:
        folders = [Path(part_of(str(place), part)) for place in locations if has_part(str(place), part)]
        if folders:
            merge(Path(part_of(str(into), part)), folders)
    remove_leftovers(into / TOKENIZER)
    for location in locations:
        _take_tokenizer(into / TOKENIZER, location / TOKENIZER)


def _take_tokenizer(there: Path, given: Path) -> None:
    if not given.is_dir():
        return
    check_seal(LocalSource(given.parent), given.name)
    if not there.exists():
        with new_folder(there) as made:
            shutil.copytree(given, made, dirs_exist_ok=True)
        return
    first, second = _contents(there), _contents(given)
    if first != second:
        differing = sorted(name for name in {*first, *second} if first.get(name) != second.get(name))
        raise CacheMismatch(
            "The two caches have different tokenizers of their teacher.",
            where=str(given),
            facts=[f"not the same file in {there}: {name}" for name in differing],
            fix="build both with the same teacher and the same version of transformers",
        )


def _contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != SEAL}

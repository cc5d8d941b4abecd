"""Seal the tokenizer in a cache location: the names and hashes of its files.

Every byte of a shard is checked when it is read; a pair is checked by these files, so they are verified too.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import ValidationError

from distillab.cache.sources import Source
from distillab.errors import CacheCorrupt
from distillab.files import file_sha256, write_text
from distillab.records.base import Record

SEAL = "seal.json"


class TokenizerSeal(Record):
    """Name -> SHA-256 of every file of the folder but this one."""

    seal_version: int = 1
    files: dict[str, str]


def seal(folder: Path) -> None:
    """Write the seal of a folder; later changes count as damage."""
    files = {path.name: file_sha256(path) for path in sorted(folder.iterdir()) if path.name != SEAL}
    write_text(folder / SEAL, TokenizerSeal(files=files).model_dump_json(indent=2) + "\n")


def is_sealed(source: Source, folder: str) -> bool:
    """Return whether the folder has a seal: those of older versions have none, and cannot be checked."""
    return source.whole(f"{folder}/{SEAL}") is not None


def check_seal(source: Source, folder: str) -> None:
    """Check a folder against its seal, if it has one.

    Args:
        source: of the cache location.
        folder: the tokenizer's, in it.
    Raises:
        CacheCorrupt: files are missing, were added or changed, or the seal cannot be read.
    """
    content = source.whole(f"{folder}/{SEAL}")
    if content is None:
        return
    try:
        files = TokenizerSeal.model_validate_json(content).files
    except ValidationError as error:
        raise _broken(source, folder, [f"{SEAL}: {error.errors()[0]['msg']}"]) from error
    facts = []
    there = {name.rpartition("/")[2] for name in source.files(folder)} - {SEAL}
    for name in sorted({*files, *there}):
        found = source.whole(f"{folder}/{name}") if name in there and name in files else None
        if name not in files:
            facts.append(f"{name!a}: not one of its files")
        elif found is None:
            facts.append(f"{name!a}: missing")
        elif hashlib.sha256(found).hexdigest() != files[name]:
            facts.append(f"{name!a}: not what was written")
    if facts:
        raise _broken(source, folder, facts)


def _broken(source: Source, folder: str, facts: list[str]) -> CacheCorrupt:
    return CacheCorrupt(
        "The tokenizer in the cache is not the one that was written there.",
        where=source.place(folder),
        facts=facts,
        fix="copy the folder from where the cache was built; or delete it, and the same `distillab cache build` "
        "writes it again",
    )

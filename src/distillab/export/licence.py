"""Find the licence that a model's files state; nothing is fetched."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import ModelCard, try_to_load_from_cache

from distillab.errors import DataError
from distillab.gguf_header import read_header
from distillab.library_errors import library_errors
from distillab.paths import is_gguf, is_local, local_path

_FILES = ("LICENSE*", "LICENCE*", "COPYING*")


def licence_of(path: str, *, revision: str | None = None) -> str | None:
    """Return the licence that a model states: in a GGUF file, its card, or a file LICENSE; None where none is found.

    Args:
        path: folder, GGUF file or hub id; of a hub id the card in the hub's cache is read.
    """
    if is_gguf(path):
        file = local_path(path)
        stated = read_header(file, error=DataError).metadata.get("general.license") if file.is_file() else None
        return stated if isinstance(stated, str) else None
    if not is_local(path):
        found = try_to_load_from_cache(path, "README.md", revision=revision)
        return _of_card(Path(found)) if isinstance(found, str) else None
    folder = local_path(path)
    if (folder / "README.md").is_file() and (stated := _of_card(folder / "README.md")):
        return stated
    for file in (file for pattern in _FILES for file in sorted(folder.glob(pattern))):
        lines = [line.strip() for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
        return f"{file.name}: {next(filter(None, lines), 'empty')[:80]}"
    return None


def _of_card(file: Path) -> str | None:
    try:
        with library_errors(DataError, "The file is no model card.", where=str(file)):
            stated = ModelCard.load(file, ignore_metadata_errors=True).data.license
    except DataError:
        return None  # a page that is no card states nothing
    return str(stated) if stated else None

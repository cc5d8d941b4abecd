"""A sound cache, and a copy of it that a test may damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cache.cache_samples import build, sample_identity, sample_rows


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of five rows; no test writes into it."""
    folder, rows = tmp_path_factory.mktemp("sound") / "c", sample_rows(5)
    build(folder, rows, sample_identity(rows))
    return folder


@pytest.fixture
def cache(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "c"))

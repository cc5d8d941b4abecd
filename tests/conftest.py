"""Shared fixtures: the materials folder, and tiny real models."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import hypothesis
import pytest
import typer.main

# The tree of commands is made once, not again with every call of the command line in this process.
typer.main.get_command = cache(typer.main.get_command)
# torch.distributed writes 88 such records with every checkpoint; pytest would make each of them and keep it.
logging.disable(logging.DEBUG)

# A busy machine makes the first example late, and no test fails for that.
hypothesis.settings.register_profile(
    "busy machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("busy machine")

# Temporary files stay in memory where there is room: the tests write through to the disk and delete tens of thousands
# of files, and some disks take 4 ms for each.
_MEMORY = Path("/dev/shm")
_ROOM = 4 * 2**30  # bytes; the tests need less than 1 GiB
if "TMPDIR" not in os.environ and _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ROOM:
    os.environ["TMPDIR"] = str(_MEMORY)
    tempfile.tempdir = None  # it is found anew

# every test may use the tiny world
pytest_plugins = ["tests.tiny_world"]

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def materials() -> Path:
    """Folder with real tokenizers, models and text; the test is skipped where it is absent."""
    folder = Path(os.environ.get("DISTILLAB_MATERIALS", ROOT / ".." / "shared" / "data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"DISTILLAB_MATERIALS: no such folder: {folder}")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _store(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep read and encoded rows in a folder of this test run; programs that tests start get it too."""
    os.environ["DISTILLAB_CACHE"] = str(tmp_path_factory.mktemp("store"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs torchao and bitsandbytes where they are not importable; `tests/quantised.py` has the reason."""
    if not all(find_spec(name) for name in ("torchao", "bitsandbytes")):
        for item in items:
            if item.get_closest_marker("quantised"):
                item.add_marker(pytest.mark.skip(reason="tests/project/test_quantised.py runs it"))


@pytest.fixture(scope="module", autouse=True)
def _little_to_collect() -> None:
    """Take what is there before a module's tests (packages, above all) out of the garbage collector's passes.

    A trainer collects garbage whenever it begins: a second each time, for a million objects that stay.
    """
    gc.collect()
    gc.freeze()

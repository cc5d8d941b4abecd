"""Two real processes in one folder, a disk without room, and a rival in between."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from distillab.cache.reader import CacheReader
from distillab.cache.verify import verify
from distillab.cache.writer import CacheWriter
from distillab.errors import CacheMismatch
from tests.cache.cache_samples import build, tree
from tests.cache.writer_process import IDENTITY, ROWS
from tests.processes import Forked, ended, wait_for


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, bytes]:
    build(tmp_path / "whole", ROWS, IDENTITY)
    return tree(tmp_path / "whole")


def start(tmp_path: Path, name: str, *, limit: int = 0) -> Forked:
    ready = tmp_path / f"{name}.ready"
    process = Forked("tests.cache.writer_process", *map(str, (tmp_path / "c", ready, tmp_path / "go", limit)))
    wait_for(process, ready.exists)
    return process


@pytest.mark.slow
def test_two_writers_of_one_name(tmp_path: Path, whole: dict[str, bytes]) -> None:
    both = [start(tmp_path, name) for name in ("first", "second")]
    (tmp_path / "go").touch()
    ends = [ended(process) for process in both]
    assert sorted(code for code, _ in ends) == [0, 4], ends
    (message,) = [err for code, err in ends if code == 4]
    assert "under the same worker's name" in message
    assert "shard-000" in message
    assert "--worker i/n" in message
    assert tree(tmp_path / "c") == whole
    assert verify(tmp_path / "c").complete


def test_a_rival_that_starts_in_between(tmp_path: Path, whole: dict[str, bytes], monkeypatch: Any) -> None:
    """It takes the first one's unfinished file for a dead writer's; the first one notices."""
    folder = tmp_path / "c"
    first, link = CacheWriter(folder, IDENTITY), os.link
    rivals = []

    def link_after_the_rival(source: Path, target: Path) -> None:
        if not rivals:
            rivals.append(CacheWriter(folder, IDENTITY))
        link(source, target)

    monkeypatch.setattr(os, "link", link_after_the_rival)
    with pytest.raises(CacheMismatch, match="under the same worker's name"):
        first.write(0, ROWS[:2])
    for number in rivals[0].todo():
        rivals[0].write(number, ROWS[2 * number : 2 * number + 2])
    assert tree(folder) == whole


# A shard has some 1,500 bytes, a journal's line 340: the first limit is met by a shard, the second by the journal.
@pytest.mark.parametrize(("limit", "met_by"), [(900, "shards"), (2500, "journals")])
def test_a_full_disk(tmp_path: Path, whole: dict[str, bytes], limit: int, met_by: str) -> None:
    process = start(tmp_path, "limited", limit=limit)
    (tmp_path / "go").touch()
    code, err = ended(process)
    assert code == 3, err
    assert "The disk is full" in err
    assert f"{tmp_path / 'c' / met_by}" in err
    assert "the same command again" in err
    reader = CacheReader(tmp_path / "c")
    done = len(whole) - 2 - len(reader.missing_shards())
    assert (done > 0) == (met_by == "journals")
    assert verify(tmp_path / "c").sound
    assert not list((tmp_path / "c").rglob("*.tmp"))
    # what did not fit of a line is gone: a process that is told may go on
    assert all(path.read_bytes().endswith(b"\n") for path in (tmp_path / "c" / "journals").iterdir() if done)
    build(tmp_path / "c", ROWS, IDENTITY)
    assert tree(tmp_path / "c") == whole

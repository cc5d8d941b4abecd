"""The store keeps what was made, gives it to every process, and never damaged."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from tests.processes import start_code

from distillab.data.store import damage, fingerprint_of, store_root, stored
from distillab.errors import ConfigError, StorageError


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILLAB_CACHE", str(tmp_path / "store"))


def writer(calls, text="content"):
    def fill(folder):
        calls.append(folder)
        (folder / "file").write_text(text)

    return fill


def test_a_second_call_makes_nothing():
    calls = []
    first = stored("part", "f", writer(calls))
    assert stored("part", "f", writer(calls)) == first == store_root() / "part" / "f"
    assert len(calls) == 1
    assert (first / "file").read_text() == "content"
    assert stored("part", "g", writer(calls)) != first
    assert len(calls) == 2


@pytest.mark.parametrize("fault", ["changed", "cut", "gone", "no seal", "seal is no list"])
def test_a_damaged_folder_is_reported_and_made_again(capsys, fault):
    calls = []
    folder = stored("part", "f", writer(calls))
    if fault == "changed":
        (folder / "file").write_text("Content")
    elif fault == "cut":
        (folder / "file").write_text("conten")
    elif fault == "gone":
        (folder / "file").unlink()
    elif fault == "no seal":
        (folder / "sealed.json").unlink()
    else:
        (folder / "sealed.json").write_text("3")
    assert stored("part", "f", writer(calls)) == folder
    assert len(calls) == 2
    assert (folder / "file").read_text() == "content"
    assert damage(folder) is None
    assert "is damaged and is made again" in capsys.readouterr().err


def test_what_fails_half_way_leaves_nothing():
    def fails(folder):
        (folder / "file").write_text("half")
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        stored("part", "f", fails)
    assert not [entry for entry in (store_root() / "part").iterdir() if entry.is_dir()]


def test_of_a_writer_that_was_slower_nothing_is_kept():
    def meanwhile(folder):
        (folder / "file").write_text("slow")
        target = store_root() / "part" / "f"
        quick = store_root() / "other" / "f"
        stored("other", "f", writer([], "quick"))
        quick.rename(target)

    assert (stored("part", "f", meanwhile) / "file").read_text() == "quick"


@pytest.mark.slow
def test_two_processes_fill_a_folder_once(tmp_path):
    program = (
        "import time\nfrom distillab.data.store import stored\n"
        "def fill(folder):\n    print('filled'); time.sleep(1); (folder / 'file').write_text('x')\n"
        "print((stored('part', 'f', fill) / 'file').read_text())"
    )
    both = [start_code(program) for _ in range(2)]
    printed = [process.communicate()[0].split() for process in both]
    assert sorted(printed) == [["filled", "x"], ["x"]]


def test_contents_are_hashed_only_where_size_or_time_differ():
    calls = []
    file = stored("part", "f", writer(calls)) / "file"
    sealed = file.with_name("sealed.json").read_text()
    status = file.stat()
    file.write_text("Content")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert damage(file.parent) is None  # what is read nowhere cannot be seen
    file.write_text("content")
    os.utime(file, ns=(1, 1))  # a copy
    assert stored("part", "f", writer(calls)) == file.parent and len(calls) == 1
    assert file.with_name("sealed.json").read_text() != sealed
    file.write_text("Content")
    os.utime(file, ns=(1, 1))
    assert damage(file.parent) is None
    os.utime(file, ns=(2, 2))
    assert "hash" in str(damage(file.parent))


def test_the_longest_unused_entries_go_and_those_in_use_stay(monkeypatch):
    calls, mib = [], "x" * 2**20
    program = (
        "from distillab.data.store import stored\n"
        "for name in ('late', 'used', 'early'):\n"
        "    stored('part', name, lambda folder: (folder / 'file').write_text('x' * 2**20))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    part = store_root() / "part"
    for age, name in enumerate(("used", "early", "late"), start=1):
        os.utime(part / name, ns=(age, age))
    stored("part", "used", writer(calls))
    os.utime(part / "used", ns=(0, 0))
    monkeypatch.setenv("DISTILLAB_CACHE_GIB", str(3.5 / 1024))
    stored("other", "new", writer(calls, mib))

    def left():
        return {entry.name for entry in store_root().glob("*/*") if entry.is_dir()}

    assert left() == {"late", "used", "new"}
    monkeypatch.setenv("DISTILLAB_CACHE_GIB", "0")
    stored("part", "newer", writer(calls, mib))
    assert left() == {"used", "new", "newer"} and len(calls) == 2
    monkeypatch.setenv("DISTILLAB_CACHE_GIB", "much")
    with pytest.raises(ConfigError, match="DISTILLAB_CACHE_GIB"):
        stored("part", "newest", writer(calls))


def test_a_store_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DISTILLAB_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="DISTILLAB_CACHE"):
        stored("part", "f", writer([]))


def test_the_root(monkeypatch, tmp_path):
    monkeypatch.delenv("DISTILLAB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert store_root() == tmp_path / "distillab"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert store_root() == tmp_path / ".cache" / "distillab"


def test_fingerprints_follow_the_values():
    assert fingerprint_of("a", {"x": 1, "y": 2}) == fingerprint_of("a", {"y": 2, "x": 1})
    assert (
        len({fingerprint_of("a", "b"), fingerprint_of("ab"), fingerprint_of("a", None), fingerprint_of("b", "a")}) == 4
    )

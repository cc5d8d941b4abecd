"""The store keeps what was made, gives it to every process, and never damaged."""

from __future__ import annotations

import subprocess
import sys

import pytest

from distillab.data.store import damage, fingerprint_of, store_root, stored
from distillab.errors import StorageError


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


def test_two_processes_fill_a_folder_once(tmp_path):
    program = (
        "import time\nfrom distillab.data.store import stored\n"
        "def fill(folder):\n    print('filled'); time.sleep(1); (folder / 'file').write_text('x')\n"
        "print((stored('part', 'f', fill) / 'file').read_text())"
    )
    both = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate(timeout=120)[0].split() for process in both]
    assert sorted(printed) == [["filled", "x"], ["x"]]


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

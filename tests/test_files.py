"""How files reach the disk: whole or not at all, over no link, synced, with the user's permissions."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models

from distillab import files
from distillab.errors import DataError, StorageError
from tests.processes import ended, start_code

OLD, NEW = b"what was there before", b"what takes its place"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "run.json"


def fill(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "weights").write_bytes(NEW)
    (folder / "config.json").write_bytes(NEW)


def make_folder(path: Path) -> None:
    with files.new_folder(path) as made:
        fill(made)


def by_a_library(path: Path) -> None:
    with files.replacing(path) as temporary:
        temporary.write_bytes(NEW)


WRITERS: dict[str, Callable[[Path], object]] = {
    "write_bytes": lambda path: files.write_bytes(path, NEW),
    "replacing": by_a_library,
    "place_new": lambda path: (path.parent.mkdir(exist_ok=True), files.place_new(path, NEW)),
    "append": lambda path: (path.parent.mkdir(exist_ok=True), files.append(path, NEW)),
    "new_folder": make_folder,
}


# ---------------------------------------------------------------- on the disk


@pytest.mark.parametrize("name", WRITERS)
def test_content_and_names_are_synced(path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content before the name, the name before the function returns."""
    synced: list[tuple[int, int]] = []
    named: list[int] = []
    real = os.fsync

    def record(descriptor: int) -> None:
        facts = os.fstat(descriptor)
        synced.append((facts.st_dev, facts.st_ino))
        named.append(path.exists())
        real(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    WRITERS[name](path)

    def place(of: Path) -> int:
        facts = of.stat()
        return synced.index((facts.st_dev, facts.st_ino))

    content = [*path.rglob("*"), path] if path.is_dir() else [path]
    assert all(place(one) < place(path.parent) for one in content)
    if name != "append":
        assert not any(named[place(one)] for one in content)
        assert named[place(path.parent)]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
@pytest.mark.parametrize("name", WRITERS)
def test_permissions_are_the_users_default(path: Path, name: str, mask: int) -> None:
    before = os.umask(mask)
    try:
        WRITERS[name](path)
    finally:
        os.umask(before)
    mode = stat.S_IMODE(path.stat().st_mode)
    assert mode == (0o777 if path.is_dir() else 0o666) & ~mask


def test_a_crash_before_the_rename_leaves_what_was_there(path: Path) -> None:
    files.write_bytes(path, OLD)
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom distillab import files\n"
        "os.replace = Path.replace = lambda *_: os.kill(os.getpid(), 9)\n"
        f"files.write_bytes(Path(sys.argv[1]), {NEW!r})"
    )
    assert ended(start_code(code, str(path)))[0] == -9
    assert path.read_bytes() == OLD
    (left,) = files.leftovers(path)
    assert left.read_bytes() == NEW
    files.write_bytes(path, NEW)
    assert path.read_bytes() == NEW
    # whoever writes the file the next time takes the leftovers away
    assert [entry.name for entry in path.parent.iterdir()] == ["run.json"]


def test_what_may_still_be_written_is_no_leftover(path: Path) -> None:
    path.parent.mkdir()
    mine = files.temporary_name(path)
    here = mine.name.split(".")[3].split("-")[0]
    running = path.with_name(f".run.json.{here}-{os.getppid()}-00ff.tmp")
    far = path.with_name(".run.json.0123abcd-99999999-00ff.tmp")
    others = [path.with_name(name) for name in (".run.json.notes.tmp", ".run.jsonl.1-00.tmp", "run.json.tmp")]
    dead = path.with_name(f".run.json.{here}-99999999-00ff.tmp")
    for place in (mine, running, far, *others, dead):
        place.write_bytes(NEW)
    assert files.leftovers(path) == [dead]
    # another machine's processes cannot be seen: a day later nobody writes there any more
    os.utime(far, (0, 0))
    assert files.leftovers(path) == sorted([dead, far])


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "append"])
def test_an_error_leaves_nothing_behind(path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path.parent.mkdir()

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        WRITERS[name](path)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(("number", "raised"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_file_system_that_syncs_no_folders_is_enough(
    path: Path, number: int, raised: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def files_alone(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", files_alone)
    with pytest.raises(OSError, match="Input/output") if raised else nullcontext():
        files.write_bytes(path, NEW)
    assert path.read_bytes() == NEW


def test_several_writers_leave_one_whole_file(path: Path) -> None:
    contents = [bytes([64 + i]) * 50_000 for i in range(8)]

    def write(content: bytes) -> None:
        for _ in range(10):
            files.write_bytes(path, content)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents
    assert [entry.name for entry in path.parent.iterdir()] == ["run.json"]


def test_of_several_that_want_a_free_name_one_gets_it(path: Path) -> None:
    path.parent.mkdir()
    got: list[tuple[bool, bytes]] = []

    def place(content: bytes) -> None:
        got.append((files.place_new(path, content), content))

    threads = [threading.Thread(target=place, args=(bytes([64 + i]) * 1000,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [content for first, content in got if first] == [path.read_bytes()]


def test_a_folder_that_is_there_stays_unless_it_is_to_be_replaced(path: Path) -> None:
    make_folder(path)
    (path / "config.json").write_bytes(OLD)
    with pytest.raises(OSError), files.new_folder(path) as made:  # noqa: PT011 (which one depends on the system)
        fill(made)
    assert (path / "config.json").read_bytes() == OLD
    with files.new_folder(path, replace=True) as made:
        (made / "other").write_bytes(NEW)
    assert [entry.name for entry in path.iterdir()] == ["other"]
    assert [entry.name for entry in path.parent.iterdir()] == ["run.json"]


# ---------------------------------------------------------------- links


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    there = tmp_path / "victim"
    there.write_bytes(OLD)
    yield there
    assert there.read_bytes() == OLD


@pytest.mark.parametrize("name", ["write_bytes", "place_new"])
def test_a_link_at_the_temporary_name_is_not_followed(
    path: Path, victim: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.parent.mkdir()
    guessed = path.with_name(".run.json.1-00.tmp")
    guessed.symlink_to(victim)
    monkeypatch.setattr(files, "temporary_name", lambda _: guessed)
    with pytest.raises(FileExistsError):
        WRITERS[name](path)
    assert not path.exists()


def test_temporary_names_cannot_be_known_before(path: Path) -> None:
    names = {files.temporary_name(path).name for _ in range(1000)}
    assert len(names) == 1000
    assert all(len(name.split("-")[2].removesuffix(".tmp")) == 16 for name in names)


def test_a_link_at_the_name_itself_is_replaced_and_not_written_through(path: Path, victim: Path) -> None:
    path.parent.mkdir()
    path.symlink_to(victim)
    files.write_bytes(path, NEW)
    assert not path.is_symlink()
    assert path.read_bytes() == NEW


def test_nothing_is_appended_through_a_link(path: Path, victim: Path) -> None:
    path.parent.mkdir()
    path.symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        files.append(path, NEW)


# ---------------------------------------------------------------- no room

LIMITED = """
import resource, sys
from pathlib import Path
from distillab import files
from distillab.errors import StorageError
path, what, limit = Path(sys.argv[1]), sys.argv[2], 4000
content = b"x" * 10_000
if what == "append":
    files.append(path, b"first")
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    if what == "new_folder":
        with files.new_folder(path) as made:
            (made / "weights").write_bytes(content)
    elif what == "replacing":
        with files.replacing(path) as temporary:
            temporary.write_bytes(content)
    else:
        getattr(files, what)(path, content)
except StorageError as error:
    print(error)
"""


@pytest.mark.parametrize("name", WRITERS)
def test_a_limit_of_file_sizes_is_a_full_disk(tmp_path: Path, name: str) -> None:
    path = tmp_path / "run.json"
    out, err = start_code(LIMITED, str(path), name).communicate()
    assert "The disk is full" in out, err
    assert str(path) in out
    assert "the same command again" in out
    assert (path.read_bytes() == b"first") if name == "append" else not path.exists()
    assert [entry for entry in tmp_path.iterdir() if entry != path] == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_every_way_of_no_room_is_one_error(path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write_bytes(path, OLD)

    def no_room(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "write", no_room)
    with pytest.raises(StorageError, match="disk is full"):
        files.write_bytes(path, NEW)
    assert path.read_bytes() == OLD
    assert [entry.name for entry in path.parent.iterdir()] == ["run.json"]


def of_torch(path: Path) -> None:
    torch.save({"a": torch.zeros(10_000)}, path)


def of_safetensors(path: Path) -> None:
    save_file({"a": torch.zeros(10_000)}, path)


def of_tokenizers(path: Path) -> None:
    Tokenizer(models.WordLevel({str(i): i for i in range(10_000)}, "0")).save(str(path))


LIBRARY = """
import resource, sys
from pathlib import Path
from distillab import files
from tests import test_files
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
try:
    getattr(test_files, sys.argv[2])(Path(sys.argv[1]))
except Exception as error:
    print(type(error).__name__, files.is_disk_full(error))
"""


@pytest.mark.parametrize("library", ["of_torch", "of_safetensors", "of_tokenizers"])
def test_what_libraries_say_of_a_full_disk_is_understood(tmp_path: Path, library: str) -> None:
    """Each has an error of its own, and none of them is an OSError."""
    out, err = start_code(LIBRARY, str(tmp_path / "file"), library).communicate()
    assert out.endswith(" True\n"), out + err
    assert not out.startswith("OSError")


def test_another_error_is_no_full_disk(path: Path) -> None:
    for error in (OSError(errno.EIO, "no room"), OSError("os error 28"), RuntimeError("expected pos 1"), ValueError()):
        assert not files.is_disk_full(error)
    with pytest.raises(RuntimeError, match="something else"), files.disk_errors(path):
        raise RuntimeError("something else")


# ---------------------------------------------------------------- JSON


def test_json_lines_end_at_a_line_feed_and_nowhere_else(path: Path) -> None:
    rows = [{"answer": f"one{mark}two"} for mark in "\u2028\u2029\x0b\x0c\x1c\x1d\x1e\x85\r"]
    files.write_json_lines(path, rows)
    assert files.read_json_lines(path) == rows
    with path.open("ab") as stream:
        stream.write(b'{"answer": "cut o')
    with pytest.raises(DataError, match=r"(?s)cut off.*line 10"):
        files.read_json_lines(path)


def test_no_number_that_json_does_not_have_is_written(path: Path) -> None:
    for write in (files.write_json, lambda path, value: files.write_json_lines(path, [value])):
        with pytest.raises(ValueError, match="JSON"):
            write(path, {"loss": float("nan")})
    assert not path.exists()


def test_a_damaged_line_is_named(path: Path) -> None:
    path.parent.mkdir()
    for line, words in (
        (b"[1]", "not a JSON object"),
        (b"{", "damaged"),
        (b"[" * 100_000, "damaged"),
        (b"\xff", "damaged"),
    ):
        path.write_bytes(b'{"a": 1}\n' + line + b"\n")
        with pytest.raises(DataError, match=rf"(?s){words}.*line 2"):
            files.read_json_lines(path)
    path.write_bytes(b"[" * 100_000)
    with pytest.raises(DataError, match="not JSON"):
        files.read_json(path)
    assert json.loads(files.json_line({"a": "\u2028"})) == {"a": "\u2028"}

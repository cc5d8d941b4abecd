"""One writer for one folder, also after a kill -9, and never for longer than it lives."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distillab.config.run import RunRecipe
from distillab.config.study import StudyRecipe
from distillab.errors import ConfigError
from distillab.runs import lock
from distillab.runs.lock import held, require_free
from distillab.runs.run import execute
from distillab.study.study import Study

_HOLD = """
import os, sys, time
from pathlib import Path
from distillab.runs.lock import held
with held(Path(sys.argv[1])):
    if os.fork() == 0:  # the child prints: by then it has closed the lock that it was born with
        print("held", flush=True)
        time.sleep(60)
        os._exit(0)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the folder, and has a forked child."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_the_second_is_refused_with_who_holds_it_until_the_first_is_killed(
    other: subprocess.Popen[str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    for ask in (lambda: held(folder).__enter__(), lambda: require_free(folder)):
        with pytest.raises(ConfigError) as error:
            ask()
        text = str(error.value)
        assert f"pid: {other.pid}" in text and f"host: {socket.gethostname()}" in text
        assert "command: -c" in text and str(folder) in text
    os.kill(other.pid, signal.SIGKILL)  # its child lives on, and must not keep the folder
    other.wait()
    assert (folder / ".lock").exists()
    require_free(folder)
    with held(folder):
        assert json.loads((folder / ".lock").read_text())["pid"] == os.getpid()
    assert list(folder.iterdir()) == []


def test_a_started_run_refuses_a_second_one(
    other: subprocess.Popen[str], tiny_world: dict[str, Any], tmp_path: Path
) -> None:
    values = {key: value for key, value in tiny_world.items() if key != "seeds"}
    recipe = RunRecipe(**values, output=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match="Another process writes into this folder"):
        execute(recipe)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_a_started_study_refuses_a_second_one_before_anything_is_examined(
    tiny_world: dict[str, Any], tmp_path: Path
) -> None:
    study = Study(StudyRecipe(**tiny_world, output=str(tmp_path / "study")), reproduce="x")
    with held(tmp_path / "study"), pytest.raises(ConfigError, match="Another process writes into this folder"):
        study.require_runnable()
    study.require_runnable()


def test_a_program_that_the_holder_starts_does_not_inherit_the_lock(tmp_path: Path) -> None:
    with held(tmp_path):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
    try:
        with held(tmp_path):
            pass
    finally:
        child.kill()
        child.wait()


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("years of work")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic"), held(tmp_path / "run"):
        pass
    assert victim.read_text() == "years of work"


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that has no locks."""

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.usefixtures("no_flock")
def test_without_flock_a_file_counts_while_its_process_lives(tmp_path: Path) -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    path = tmp_path / ".lock"
    holder = {"pid": sleeper.pid, "host": socket.gethostname(), "started": lock._started(sleeper.pid)}
    path.write_text(json.dumps(holder))
    with pytest.raises(ConfigError, match=f"pid: {sleeper.pid}"), held(tmp_path):
        pass
    sleeper.kill()
    sleeper.wait()
    with held(tmp_path), pytest.raises(ConfigError, match=f"pid: {os.getpid()}"), held(tmp_path):
        pass
    # the same number, another process
    path.write_text(json.dumps(holder | {"pid": os.getpid(), "started": "1"}))
    with held(tmp_path):
        pass
    path.write_text(json.dumps(holder | {"host": "another machine"}))
    with pytest.raises(ConfigError, match=rf"(?s)host: another machine.*delete {path}"), held(tmp_path):
        pass


def test_a_file_that_its_holder_deletes_meanwhile_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened just before its last holder deleted it, and locked just after the next one made another."""
    path, flock = tmp_path / ".lock", fcntl.flock
    path.touch()

    def late(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        path.unlink()
        path.touch()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with held(tmp_path), pytest.raises(ConfigError, match="Another process"), held(tmp_path):
        pass


def test_many_starters_at_once_never_hold_it_together(tmp_path: Path) -> None:
    """The holder deletes the file at its end, while others open it."""
    code = f"""
import os, time
from pathlib import Path
from distillab.errors import ConfigError
from distillab.runs.lock import held
folder, taken = Path({str(tmp_path)!r}), 0
end = time.monotonic() + 1.5
while time.monotonic() < end:
    try:
        with held(folder):
            inside = folder / "inside"
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
            inside.unlink()
            taken += 1
    except ConfigError:
        pass
print(taken)
"""
    children = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    results = [child.communicate(timeout=60) for child in children]
    assert all(err == "" for _, err in results), results
    assert sum(int(out) for out, _ in results) > 30

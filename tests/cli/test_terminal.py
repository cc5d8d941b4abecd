"""Nothing that a title, a name, a path or a row holds can colour, clear or overwrite what stands on a terminal."""

from __future__ import annotations

import ast
import fcntl
import json
import os
import pty
import shutil
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import distillab
import distillab.progress
from distillab.cli.console import show_study
from distillab.progress import Progress
from distillab.terminal import echo, plain_console
from tests.cli.conftest import Run
from tests.report.fixture import study

CODES = "\x1b[2J\x1b]0;owned\x07\u202e\x9b"


def test_there_is_one_way_to_the_terminal() -> None:
    root = Path(distillab.__file__).parent
    elsewhere = set()
    for file in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            called = node.func if isinstance(node, ast.Call) else None
            plain = isinstance(called, ast.Name) and called.id in ("print", "secho", "Console")
            of_a_library = isinstance(called, ast.Attribute) and called.attr in ("echo", "secho", "Console")
            imported = isinstance(node, ast.ImportFrom) and node.module in ("click", "typer")
            if plain or of_a_library or (imported and {name.name for name in node.names} & {"echo", "secho"}):
                elsewhere.add(file.relative_to(root).as_posix())
    assert elsewhere == {"terminal.py"}


def test_a_closed_pipe_ends_it_quietly_and_a_closed_connection_does_not() -> None:
    # `distillab … | head`; by the signal's default a server that hangs up would end a run without a word
    code = """
import signal
from distillab.cli.main import app, main
app.command("handler")(lambda: print(repr(signal.getsignal(signal.SIGPIPE)), flush=True))
main()
"""
    run = [sys.executable, "-c", code, "handler"]
    assert "SIG_IGN" in subprocess.run(run, capture_output=True, text=True, check=True).stdout
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run(run, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (1, b"")


@pytest.mark.parametrize(("columns", "shown"), [(80, "2/2 [00:"), (0, "run: 2 rows in ")])
def test_a_terminal_without_a_width_gets_lines(columns: int, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in some containers: a bar of no width shows nothing."""
    reading, writing = pty.openpty()
    fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    monkeypatch.setattr(distillab.progress, "_QUIET_S", 0.0)
    with os.fdopen(writing, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with Progress("run", total=2, unit="rows") as progress:
            for _ in range(2):
                progress.advance()
        terminal.flush()
        written = os.read(reading, 10_000).decode()
    os.close(reading)
    assert shown in written, written


def test_codes_are_shown_as_signs(capsys: pytest.CaptureFixture[str]) -> None:
    echo(f"title {CODES}")
    plain_console().print(f"title {CODES}", style="bold")
    with Progress(f"run {CODES}", total=1, unit="rows") as progress:
        progress._line(0.0, f"note {CODES}")
    shown = capsys.readouterr()
    for text in (shown.out, shown.err):
        assert not any(code in text for code in ("\x1b", "\x07", "\u202e", "\x9b"))
        assert "␛[2J" in text and "⟨U+202E⟩" in text


def test_a_studys_title_is_escaped(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    results = study()
    arms = (results.arms[0].model_copy(update={"name": f"arm {CODES}"}), *results.arms[1:])
    show_study(results.model_copy(update={"title": f"title {CODES}", "arms": arms}), tmp_path)
    out = capsys.readouterr().out
    assert not any(code in out for code in ("\x1b", "\x07", "\u202e", "\x9b"))
    assert "title ␛[2J" in out and "arm ␛[2J" in out


@pytest.mark.parametrize(
    "words",
    [
        ["train", f"no{CODES}.yaml"],
        ["data", f"no{CODES}.yaml"],
        ["report", f"no{CODES}"],
        ["check", f"./a{CODES}", "./b"],
    ],
    ids=lambda words: words[0],
)
def test_a_name_in_an_error_is_escaped(run: Run, words: list[str]) -> None:
    code, out, err = run(*words)
    assert code in (1, 2)
    assert "\x1b" not in out + err and "\u202e" not in out + err
    assert "␛[2J" in err


def test_a_row_of_a_file_is_escaped(run: Run, recipe: Callable[..., str], tmp_path: Path) -> None:
    rows = tmp_path / f"rows{CODES[:4]}.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"a {CODES} {n}", "answer": "b"}) + "\n" for n in range(9)))
    code, out, err = run("data", recipe(teacher=None, data={"train": {"path": str(rows)}}))
    assert code == 0, err
    assert "\x1b" not in out and "\u202e" not in out and "rows␛[2J" in out


def test_what_goes_to_a_program_is_escaped_as_json(run: Run, tiny_world: dict[str, Any], tmp_path: Path) -> None:
    teacher = tmp_path / f"teacher{CODES[:4]}"
    shutil.copytree(tiny_world["teacher"]["path"], teacher)
    _, out, err = run("check", str(teacher), tiny_world["student"]["path"], "--json")
    assert "\x1b" not in out, err
    assert json.loads(out)["contract"]["teacher"]["name"] == teacher.name

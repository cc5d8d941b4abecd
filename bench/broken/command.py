"""Runs every case through the command line, in one process, and writes the table."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from bench.broken.case import Case, make_sound
from bench.broken.cases_files import CASES as FILES
from bench.broken.cases_models import CASES as MODELS
from distillab.files import write_text

CASES = (*MODELS, *FILES)
_LONGEST = 220


@dataclass(frozen=True)
class Answer:
    """What a command did.

    Attributes:
        code: exit code.
        text: standard output and standard error together.
        seconds: that it took.
    """

    code: int
    text: str
    seconds: float

    def wrong(self, case: Case) -> str | None:
        """What is wrong with it; None where it is right."""
        if "Traceback (most recent call last)" in self.text:
            return "traceback"
        if case.works is not (self.code == 0):
            return f"exit code {self.code}" if case.works else "accepted in silence"
        missing = [text for text in case.says if text not in self.text]
        return f"does not say {missing[0]!r}" if missing else None


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0 every case is answered rightly, 1 some is not."""
    parser = argparse.ArgumentParser(prog="python -m bench.broken", description=__doc__)
    parser.add_argument("cases", nargs="*", help="parts of names; default: all")
    parser.add_argument("--table", type=Path, help="write the table there")
    options = parser.parse_args(arguments)
    chosen = [case for case in CASES if not options.cases or any(part in _name(case) for part in options.cases)]
    answers = []
    with tempfile.TemporaryDirectory() as place:
        sound = Path(place, "sound")
        sound.mkdir()
        make_sound(sound)
        for number, case in enumerate(chosen):
            answer = ask(case, sound, Path(place, str(number)))
            answers.append(answer)
            wrong = answer.wrong(case)
            print(f"{wrong or 'right':28} {answer.seconds:5.1f} s  {_name(case)}", flush=True)
            if wrong:
                print("       " + "\n       ".join(answer.text.splitlines()[-12:]), flush=True)
    problems = [answer.wrong(case) for case, answer in zip(chosen, answers, strict=True)]
    print(_counts(problems))
    if options.table is not None:
        write_text(options.table, table(chosen, answers))
    return int(any(problems))


def ask(case: Case, sound: Path, folder: Path) -> Answer:
    """Break a copy of the sound folder, and give it to the command."""
    shutil.copytree(sound, folder)
    case.make(folder)
    before, start = Path.cwd(), time.perf_counter()
    try:
        os.chdir(folder)
        code, text = run(case)
    finally:
        os.chdir(before)
        shutil.rmtree(folder)
    return Answer(code, text, time.perf_counter() - start)


def run(case: Case) -> tuple[int, str]:
    """Exit code and output of a case's command line, as `main` gives them."""
    from distillab.cli.main import main as distillab

    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=case.encoding, write_through=True)
    errors = io.TextIOWrapper(raw, encoding=case.encoding, errors="backslashreplace", write_through=True)
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
        mock.patch.object(sys, "argv", ["distillab", *case.command]),
        _quota(case.most_bytes),
    ):
        try:
            distillab()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    return code, raw.getvalue().decode(case.encoding)


@contextlib.contextmanager
def _quota(most_bytes: int | None) -> Iterator[None]:
    """No file of this process may be longer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        if most_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def table(cases: Sequence[Case], answers: Sequence[Answer]) -> str:
    """A page of what every case is answered with."""
    problems = [answer.wrong(case) for case, answer in zip(cases, answers, strict=True)]
    lines = [
        "# Broken folders and files",
        "",
        "The errors for broken or unusual inputs. Made by `python -m bench.broken --table docs/broken-inputs.md`,",
        "which builds each case in a temporary folder with tiny models and gives it to the command line.",
        "",
        _counts(problems),
        "",
        "| what | how | exit code | rule, and the first fact |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {case.group} | {case.name} | {answer.code} | {_first_line(case, answer)} |"
        for case, answer in zip(cases, answers, strict=True)
    ]
    return "\n".join(lines) + "\n"


def _counts(problems: Sequence[str | None]) -> str:
    tracebacks = sum(problem == "traceback" for problem in problems)
    silent = sum(problem == "accepted in silence" for problem in problems)
    right = sum(problem is None for problem in problems)
    return f"{len(problems)} cases: {right} right, {tracebacks} tracebacks, {silent} accepted in silence."


def _name(case: Case) -> str:
    return f"{case.group}: {case.name}"


def _first_line(case: Case, answer: Answer) -> str:
    if case.works:
        return "works"
    kinds = ("Error:", "Mismatch:", "Corrupt:")
    lines = [line for line in answer.text.splitlines() if any(kind in line.split(" ")[0] for kind in kinds)]
    said = answer.text.splitlines()
    facts = [text.partition("found:")[2].strip() for text in said if text.startswith("  found:")]
    line = " ".join([(lines or said or [""])[0].partition(": ")[2], *facts[:1]])
    return line[:_LONGEST].replace("|", "\\|").replace("<", "&lt;")

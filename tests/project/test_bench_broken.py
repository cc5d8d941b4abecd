"""The quick part of the bench of broken folders and files, and its page."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.broken.case import Case, make_sound, nothing
from bench.broken.command import CASES, Answer, ask, table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "broken-inputs.md"
QUICK = (
    "a git-LFS pointer",
    "fewer layers than the weights",
    "padding beyond the rows, check",
    "100,000 deep",
    "NUL",
    "a full quota",
    "check on such a terminal",
    "a run's, given to compare",
    "CSV with semicolons",
    "results.json, cut off",
)
TRACEBACK = "Traceback (most recent call last):\nKeyError: 1"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("broken") / "sound"
    folder.mkdir()
    make_sound(folder)
    return folder


@pytest.mark.parametrize("case", [c for c in CASES if c.name in QUICK], ids=lambda case: f"{case.group}: {case.name}")
def test_a_broken_input_is_answered(case: Case, sound: Path, tmp_path: Path) -> None:
    answer = ask(case, sound, tmp_path / "case")
    assert answer.wrong(case) is None, answer.text


def test_the_bench_is_as_large_as_it_is_said_to_be_and_its_page_is_of_these_cases() -> None:
    names = [(case.group, case.name) for case in CASES]
    assert len(names) == len(set(names)) >= 60
    page = PAGE.read_text(encoding="utf-8")
    assert f"{len(CASES)} cases: {len(CASES)} right, 0 tracebacks, 0 accepted in silence." in page
    assert [line for line in page.splitlines() if line.startswith("| ")][1:] == [
        line for line in page.splitlines() if any(line.startswith(f"| {group} | {name} | ") for group, name in names)
    ]


def test_what_is_wrong_is_noticed() -> None:
    case = Case("group", "name", nothing, ("train",), ("the reason",))
    assert Answer(1, "Error: the reason", 0.0).wrong(case) is None
    assert Answer(1, TRACEBACK + " the reason", 0.0).wrong(case) == "traceback"
    assert Answer(0, "the reason", 0.0).wrong(case) == "accepted in silence"
    assert Answer(1, "something", 0.0).wrong(case) == "does not say 'the reason'"
    works = Case("group", "name", nothing, ("train",), (), works=True)
    assert Answer(2, "refused", 0.0).wrong(works) == "exit code 2"
    assert "1 tracebacks, 1 accepted in silence" in table([case, case], [Answer(1, TRACEBACK, 0.0), Answer(0, "", 0.0)])

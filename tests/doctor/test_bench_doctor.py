"""How the bench of planted faults judges and counts."""

from __future__ import annotations

from pathlib import Path

from bench.doctor.case import Case, ScoredCase, judge
from bench.doctor.command import EVERY
from bench.doctor.drawn import WORLDS
from bench.doctor.score import passed, summary

from distillab.records import CheckResult, Finding

PAGES = Path(__file__).resolve().parents[2] / "src" / "distillab" / "doctor" / "findings"


def _finding(name: str, severity: str) -> Finding:
    return Finding.model_validate(
        {"id": name, "severity": severity, "title": "t", "evidence": ("s",), "explanation": "m", "fix": ("d",)}
    )


def _case(*expected: str, beside: tuple[str, ...] = ()) -> Case:
    return Case("c", "torch", "batch", frozenset(expected), lambda place: (), "nothing", frozenset(beside))


def _judged(case: Case, *found: tuple[str, str]) -> ScoredCase:
    result = CheckResult(check="p", scope="l", findings=tuple(_finding(*one) for one in found))
    return judge(case, [result], 0.1)


def test_the_right_id_is_found_and_an_error_beside_it_is_false() -> None:
    right = _judged(_case("double-bos"), ("double-bos", "warning"), ("labels-not-inputs", "error"))
    assert (right.verdict, right.false_errors) == ("found", ("labels-not-inputs",))
    allowed = _judged(_case("double-bos", beside=("eos-missing",)), ("double-bos", "note"), ("eos-missing", "error"))
    assert (allowed.verdict, allowed.false_errors) == ("found", ())


def test_another_id_is_not_the_right_one_and_a_note_is_no_alarm() -> None:
    assert _judged(_case("double-bos"), ("eos-missing", "warning")).verdict == "another id"
    assert _judged(_case("double-bos"), ("eos-missing", "note")).verdict == "missed"
    assert _judged(_case("double-bos", beside=("eos-missing",)), ("eos-missing", "warning")).verdict == "missed"


def test_a_warning_on_a_good_set_up_is_no_false_error() -> None:
    assert _judged(_case(), ("eos-missing", "warning")).verdict == "good"
    assert _judged(_case(), ("eos-missing", "error")).verdict == "false alarm"


def test_the_targets_are_95_percent_and_no_false_error() -> None:
    found = [_judged(_case("double-bos"), ("double-bos", "warning"))] * 19
    assert passed([*found, _judged(_case("double-bos"))])
    assert not passed([*found[1:], _judged(_case("double-bos")), _judged(_case("double-bos"))])
    assert not passed([*found, _judged(_case(), ("eos-missing", "error"))])
    assert "| batch | 19 | 19 (100.0%) | 0 | 0 | 0 | 0 | 0 |" in summary(found)


def test_there_are_enough_cases_with_names_of_their_own_and_pages_for_their_ids() -> None:
    cases = [case for part in EVERY for case in part]
    names = [case.name for case in cases]
    assert len(set(names)) == len(names)
    assert sum(bool(case.expected) for case in cases) + sum(len(world.mutations) for world in WORLDS) >= 150
    assert sum(not case.expected for case in cases) >= 30
    assert {name for case in cases for name in case.expected if not (PAGES / f"{name}.md").exists()} == set()
    assert {case.set_up for case in cases} == {"ours", "torch", "transformers", "trl-sft", "trl-gkd", "trl-gold"}

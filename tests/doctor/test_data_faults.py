"""Every planted fault of data is found under its own id, and good data are left in peace."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.doctor.data_escapes import MEANT
from tests.doctor.data_faults import FAULTS, Fault
from tests.doctor.data_samples import Data, conversations, dolly, pairs, stories

from distillab.doctor.data.audit import audit_data, run_data_checks
from distillab.doctor.data.subject import DataSubject, TeacherText
from distillab.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def data(materials: Path) -> Data:
    return Data(materials)


def found(subject: DataSubject) -> dict[str, str]:
    findings = [finding for one in run_data_checks(subject) for finding in one.findings]
    said = {finding.id: finding.severity for finding in findings}
    assert len(findings) == len(said), "an id is said once"
    return said


@pytest.mark.usefixtures("languages_once")
@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_a_planted_fault_is_found(fault: Fault, data: Data) -> None:
    said = found(fault.spoil(data))
    assert said.get(fault.id) == fault.severity, said
    assert {id for id, severity in said.items() if severity == "error"} <= {fault.id}


@pytest.mark.usefixtures("languages_once")
@pytest.mark.parametrize("row", MEANT, ids=[prompt for prompt, _ in MEANT])
def test_escapes_that_are_meant_are_left_in_peace(row: tuple[str, str], data: Data) -> None:
    """One such row of six: more than any share that would be a warning."""
    rows = [row if number % 6 == 0 else pair for number, pair in enumerate(data.rows)]
    assert {"text-escaped", "text-damaged"} & found(data.subject(rows)).keys() == set()


def test_answers_of_one_length_are_not_cut(data: Data) -> None:
    """Codes, closed sentences, lists; and plain text that was cut into pieces on purpose."""
    for made in (
        lambda n: f"{n * 7919:032x}",
        lambda n: f"The answer of row {n:05d} is known to all.",
        lambda n: "yes" if n % 2 else "no",
    ):
        assert "texts-cut-at-length" not in found(data.subject([(p, made(n)) for n, (p, _) in enumerate(data.rows)]))


def test_good_rows_and_a_good_teacher_are_left_in_peace(data: Data) -> None:
    assert found(data.taught()) == {}


def test_instructions_of_many_kinds_are_left_in_peace(materials: Path) -> None:
    said = found(dolly(materials))
    assert set(said.values()) <= {"note"}, said


def test_plain_text_is_left_in_peace(materials: Path) -> None:
    assert set(found(stories(materials)).values()) <= {"note"}
    cut = [TeacherText(e.prompt, e.answer[:80], False) for e in stories(materials).train]
    said = found(replace(stories(materials), teacher_texts=tuple(cut)))
    assert said["teacher-answers-cut-off"] == "note", "a text has no natural end"
    assert set(said.values()) == {"note"}


def test_conversations_are_left_in_peace(materials: Path) -> None:
    assert set(found(conversations(materials)).values()) <= {"note"}


def test_translations_are_no_change_of_language(data: Data) -> None:
    """Where most rows change the language, the rows that do not are told."""
    german = "Das ist nicht so schwer, denn die Zahlen werden zuerst addiert und dann mit der Zahl {} verglichen."
    rows = [(p, german.format(n)) for n, (p, _) in enumerate(data.rows)]
    assert found(data.subject(rows)) == {}
    rows[5] = data.rows[5]
    assert found(data.subject(rows)) == {"language-change": "note"}


def test_a_rendered_prompt_is_right_in_the_template_plain(data: Data) -> None:
    rows = [(f"### Instruction:\n{p}\n\n### Response:\n", a) for p, a in data.rows]
    assert found(data.subject(rows)) == {"prompts-already-rendered": "note"}


def test_refusals_of_the_data_set_itself_are_not_the_teachers(data: Data) -> None:
    said = "I'm sorry, but I can't help with that."
    rows = [(p, said if n % 9 == 0 else a) for n, (p, a) in enumerate(data.rows)]
    texts = [TeacherText(p, said if n % 9 == 0 else data.written[n], True) for n, (p, _) in enumerate(data.rows)]
    assert "teacher-refuses" not in found(data.subject(rows, teacher_texts=tuple(texts)))


def test_unknown_tokens(materials: Path) -> None:
    """Characters that a tokenizer without byte fallback lacks."""
    data = Data(materials, "tok105")
    good = data.subject([(p.replace("\n", " "), a) for p, a in data.rows], student=data.reader(max_tokens=4000))
    chinese = data.subject([("数字" * 20, "答案是" * 30)] * 30, student=data.reader(max_tokens=4000), held_out=())
    assert found(good).get("unknown-tokens") in (None, "note", "warning")
    assert found(chinese)["unknown-tokens"] == "error"


def test_what_cannot_be_examined_is_said(data: Data) -> None:
    checks = {one.check: one for one in run_data_checks(data.subject(held_out=()))}
    assert checks["train and held-out rows"].skipped is not None
    few = {one.check: one for one in run_data_checks(data.subject(data.rows[:3]))}
    assert few["languages"].skipped is not None and few["answers and their prompts"].skipped is not None


def test_without_the_packages_what_they_judge_is_named(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that is None in sys.modules is one that is not installed."""
    wrong = data.taught()
    wrong = replace(wrong, train=pairs([(p, f"Das café ist zu: {a}".encode().decode("cp1252")) for p, a in data.rows]))
    assert "text-damaged" in found(wrong)
    for name in ("ftfy", "py3langid"):
        monkeypatch.setitem(sys.modules, name, None)
    checks = {one.check: one for one in run_data_checks(wrong)}
    assert checks["languages"].skipped == "not checked: language (pip install 'distillab[text]')"
    assert checks["texts"].scope.endswith("not checked: text read in a wrong encoding (pip install 'distillab[text]')")
    assert checks["teacher's answers and the data"].scope.endswith(checks["languages"].skipped)
    assert not any(finding.id == "text-damaged" for finding in checks["texts"].findings)


def test_arguments_that_cannot_be(data: Data, materials: Path) -> None:
    with pytest.raises(DataError, match="no rows"):
        audit_data((), data.reader())
    with pytest.raises(DataError, match="different kinds"):
        audit_data(pairs(data.rows), data.reader(), held_out=stories(materials).train)
    with pytest.raises(ConfigError, match="so few tokens"):
        audit_data(pairs(data.rows), data.reader(), max_tokens=3)

"""A finding that another one brings along says so, and is no error of its own; nothing else is touched."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.doctor.batch_faults import prompt_in_answer_out
from tests.doctor.test_correlate import finding

from distillab.doctor.batch.audit import audit_batch
from distillab.doctor.causes import BRINGS, with_causes
from distillab.records import CheckResult

PAGES = Path(__file__).resolve().parents[2] / "src" / "distillab" / "doctor" / "findings"


def linked(*found):
    (one,) = with_causes([CheckResult(check="p", scope="l", findings=tuple(finding(*each) for each in found))])
    return {each.id: (each.severity, each.follows_from) for each in one.findings}


def test_a_consequence_names_its_cause_and_is_no_error():
    found = linked(("mask-inverted", "error"), ("eos-not-scored", "error"), ("double-bos", "warning"))
    assert found == {
        "mask-inverted": ("error", ()),
        "eos-not-scored": ("warning", ("mask-inverted",)),
        "double-bos": ("warning", ()),
    }


def test_a_cause_that_is_less_certain_explains_nothing():
    assert linked(("mask-inverted", "warning"), ("eos-not-scored", "error"))["eos-not-scored"] == ("error", ())
    assert linked(("eos-not-scored", "error"))["eos-not-scored"] == ("error", ())


def test_every_cause_and_effect_has_a_page_and_none_explains_itself():
    names = {*BRINGS, *(name for effects in BRINGS.values() for name in effects)}
    assert [name for name in sorted(names) if not (PAGES / f"{name}.md").exists()] == []
    reached = {cause: set(effects) for cause, effects in BRINGS.items()}
    for _ in BRINGS:
        for effects in reached.values():
            effects |= {far for near in effects for far in reached.get(near, ())}
    assert [cause for cause, effects in reached.items() if cause in effects] == []


@pytest.mark.parametrize("rows", [3, 8, 24])
def test_misaligned_labels_are_one_error_and_nothing_is_said_of_prompt_positions(world_of, read_once, rows):
    """What stood beside it before: rows that could not be placed, told as another text's."""
    world = world_of("tinyllama-1.1b")
    given = world.rows(rows)
    left, right = world.batch(given, side="left"), world.batch(given, side="right")
    # one row's labels are cut on the way
    labels = right["labels"].clone()
    labels[0, : labels.shape[1] // 2] = -100
    found = [each for one in audit_batch(left | {"labels": labels}, world.tokenizer) for each in one.findings]
    assert [each.id for each in found if each.severity == "error"] == ["labels-misaligned"]


def test_prompt_positions_are_still_found_beside_rows_that_are_right(world_of, read_once):
    world = world_of("tinyllama-1.1b")
    wrong = prompt_in_answer_out(world)
    found = [each for one in audit_batch([wrong, world.good()], world.tokenizer) for each in one.findings]
    assert ("answer-at-prompt-positions", "error") in {(each.id, each.severity) for each in found}

"""What a run shows of its student's own answers, when it arises, and notes at the end."""

from __future__ import annotations

from typing import Any

import pytest

from distillab.runs.rollouts import RolloutSteps, RolloutWatch, rollout_notes

WELL = {"max_new_tokens": 32, "fraction": 0.75, "truncated": 0.0, "top16_overlap": 0.9, "accept": 0.9}


def shown(steps: list[dict[str, Any]]) -> list[tuple[int, str]]:
    """Return the step and the text of all that is shown; the notes at the end have the same causes."""
    watch = RolloutWatch(longest=32, examples=list)
    found = [(number, text) for number, one in enumerate(steps, start=1) for text in watch.news(number, one)]
    kept = RolloutSteps()
    for one in steps:
        kept.append(one)
    assert (list(RolloutSteps()), list(kept)) == ([], list(steps))
    notes = rollout_notes(kept)
    assert len(notes) == len(found)
    return found


@pytest.mark.parametrize(
    ("figures", "warned"),
    [
        ({"top16_overlap": 0.3, "accept": 0.1}, "30% of their 16 most likely"),
        ({"top16_overlap": 0.3, "accept": 0.1}, "accept 10% of the student's tokens"),
        ({"top16_overlap": 0.3, "accept": 0.8}, None),
        ({"top16_overlap": 0.6, "accept": 0.1}, None),
        ({}, None),
    ],
)
def test_a_student_far_from_its_teacher_is_shown_at_step_1(figures: dict[str, float], warned: str | None) -> None:
    found = shown([WELL | figures, WELL | {"top16_overlap": 0.0, "accept": 0.0}])
    assert [number for number, _ in found] == ([1] if warned else [])
    assert all(warned in text and "train the student with seqkd first" in text for _, text in found if warned)


def test_without_the_teachers_probabilities_the_overlap_decides() -> None:
    (found,) = shown([{"max_new_tokens": 32, "fraction": 0.75, "truncated": 0.0, "top16_overlap": 0.3}])
    assert "30%" in found[1] and "accept" not in found[1]


def test_cut_answers_are_shown_once_and_only_at_the_largest_number_of_new_tokens() -> None:
    growing = [WELL | {"truncated": 1.0, "max_new_tokens": size} for size in range(16, 32)]
    assert shown([*growing, *[WELL] * 20]) == []
    found = shown([WELL | {"truncated": 0.6}] * 40)
    assert [number for number, _ in found] == [16] and "60% of the student's answers" in found[0][1]


def test_an_active_guard_is_shown_when_it_begins() -> None:
    found = shown([*[WELL] * 3, *[WELL | {"fraction": 0.25}] * 4])
    assert [number for number, _ in found] == [4]
    assert found[0][1].startswith("at 1 of 4 steps the student wrote fewer answers than answers.fraction")

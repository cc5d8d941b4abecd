"""The sentence that a study ends in."""

from __future__ import annotations

import pytest

from distillab.records import AccessLevel, ArmResult, Interval
from distillab.study.results import verdict


def _arm(name: str, access: AccessLevel, mean: float, *, across: bool = False, shows: str | None = None) -> ArmResult:
    return ArmResult(
        name=name,
        method=name,
        access=access,
        teacher="t",
        across_tokenizers=across,
        demonstrates=shows,
        seeds=(),
        evaluations=(),
        curves=(),
        costs=(),
        against_sft=Interval(mean=mean, low=mean - 0.01, high=mean + 0.01),
    )


def test_levels_of_access_are_told_apart_by_the_teachers_tokens() -> None:
    text = verdict(
        [
            _arm("spans", "logits", -0.04, across=True),
            _arm("logits", "logits", -0.09),
            _arm("answers", "text", 0.005, across=True),
            _arm("broken", "logits", 3.0, across=True, shows="an error"),
        ]
    )
    same, across, failures = text.split(". ")
    assert same == (
        "Held against SFT on the same rows: "
        "logits (logits) is better by 0.090 nats a token (95 % interval -0.100 to -0.080)"
    )
    assert across.startswith("Across tokenizers, from a teacher with other tokens: answers (text) cannot be told")
    assert "; spans (logits) is better by 0.040" in across
    assert failures == "Shown as failures, not as results: broken."


@pytest.mark.parametrize("across", [False, True])
def test_one_kind_of_teacher_alone(across: bool) -> None:
    text = verdict([_arm("logits", "logits", 0.05, across=across)])
    assert text.startswith("Held against SFT on the same rows") and text.endswith("(95 % interval +0.040 to +0.060).")
    assert ("tokenizers" in text) == across

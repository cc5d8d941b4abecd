"""Differences and shares of the gap from held-out rows, by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from distillab.records import ArmResult, Metric, TaskRecord, TeacherProvenance
from distillab.study.comparisons import Judged, against_fixed_data, comparisons
from tests.figures import figures, with_value

ROWS = 12
TEACHER = TeacherProvenance(name="t", weights_sha256="1", parameters=1, dtype="float32", template_sha256="0")


def judged(
    nats: float, *, kl: float | None = None, score: float = 0.0, tokens: int = 4, size: int = 10, by: str = "1"
) -> Judged:
    """A model with so many nats and KL a token; every row ends in a token of 0.5 nats."""
    lines: list[dict[str, Any]] = [
        {"key": str(row), "nats": nats * tokens, "eos_nats": 0.5, "tokens": tokens, "bytes": size}
        | ({} if kl is None else {"kl": kl * tokens})
        | {"scores": {"value_match": float(row < ROWS * score), "rouge_l": 0.0}}
        for row in range(ROWS)
    ]
    values = {"nats_per_token": nats, "bits_per_byte": 1.0, "kl_from_teacher": kl, "value_match": score, "rouge_l": 0.0}
    provenance = TEACHER.model_copy(update={"weights_sha256": by})
    return Judged([figures(generated=ROWS, **values)], [lines], judged_by=provenance)


def test_every_family_by_hand() -> None:
    sft, teacher = judged(3.0, kl=0.8, score=0.25), judged(1.0, score=0.75)
    found = {one.family: one for one in comparisons(judged(2.5, kl=0.2, score=1.0), sft, teacher)}
    assert [one.metric for one in found.values()] == ["nats_per_token", "kl_from_teacher", "value_match"]
    assert [one.difference.mean for one in found.values()] == pytest.approx([-0.5, -0.6, 0.75])
    shares = [one.recovered.share if one.recovered else None for one in found.values()]
    assert shares == pytest.approx([0.25, 0.75, 1.5])
    assert [one.difference.outcome for one in found.values()] == ["better"] * 3
    worse = {one.family: one for one in comparisons(judged(3.5, kl=1.0, score=0.25), sft, teacher)}
    assert worse["likelihood"].recovered.share == pytest.approx(-0.25)  # type: ignore[union-attr]
    assert worse["fidelity"].difference.outcome == "worse"


def test_no_gap_no_share_and_the_reason() -> None:
    sft = judged(3.0, kl=0.8, score=0.5)
    likelihood, fidelity, task = comparisons(judged(2.5, kl=0.9, score=0.5), sft, judged(3.0, score=0.5))
    assert (likelihood.recovered, task.recovered) == (None, None)
    assert likelihood.undefined == (
        "the teacher is not better than SFT beyond the interval: +0.000 nats/token, 95 % interval +0.000 to +0.000"
    )
    assert fidelity.recovered is not None and fidelity.recovered.share == pytest.approx(-0.125)
    short = [Judged(one.evaluations, [one.lines[0][:9]]) for one in (judged(2.5), sft, judged(1.0))]
    assert {one.undefined for one in comparisons(*short)} == {"too few rows for an interval"}
    assert [one.undefined for one in comparisons(judged(1.0), sft)] == [None, None]


def test_fidelity_to_another_teacher_is_not_compared() -> None:
    sft, teacher = judged(3.0, kl=0.8), judged(1.0)
    assert [one.family for one in comparisons(judged(2.0, kl=0.1, by="2"), sft, teacher)] == ["likelihood", "task"]


def test_a_teacher_with_other_tokens_is_compared_in_bits_a_byte() -> None:
    """12 nats of a row less 0.5 for its end are 11.5 for 10 bytes; the teacher's 4 − 0.5 are for 7 bytes."""
    sft, arm, teacher = judged(3.0), judged(2.5), judged(2.0, tokens=2, size=7)
    likelihood = comparisons(arm, sft, teacher)[0]
    assert (likelihood.metric, likelihood.difference.mean) == ("nats_per_token", pytest.approx(-0.5))
    share = (9.5 - 11.5) / (3.5 / 7 * 10 - 11.5)
    assert likelihood.recovered is not None and likelihood.recovered.share == pytest.approx(share)
    gap = comparisons(teacher, sft)[0]
    assert (gap.metric, gap.unit) == ("bits_per_byte", "bits/byte")
    assert gap.difference.mean == pytest.approx((3.5 / 7 - 11.5 / 10) / math.log(2))


def test_an_arm_knows_its_comparison_by_likelihood() -> None:
    compared = comparisons(judged(2.5), judged(3.0), judged(1.0))
    arm = ArmResult(
        name="a",
        method="logits",
        access="logits",
        teacher="t",
        seeds=(),
        evaluations=(),
        curves=(),
        costs=(),
        comparisons=compared,
    )
    assert arm.against_sft == compared[0].difference
    assert arm.against("fidelity") is None


def _with_own(kl: list[float], tokens: list[int]) -> Judged:
    one = judged(2.0, kl=0.5)
    lines = [
        line | {"ids": [1], "own_kl": each, "own_tokens": of}
        for line, each, of in zip(one.lines[0], kl, tokens, strict=False)
    ]
    ratio = sum(kl) / sum(tokens)
    return Judged([with_value(one.evaluations[0], "own_kl_from_teacher", ratio)], [lines], one.judged_by)


def test_own_text_is_compared_by_the_ratio_of_sums_whatever_the_lengths() -> None:
    kl, tokens = [float(row) for row in range(ROWS)], [row % 5 for row in range(ROWS)]
    other = [0.5 * row for row in range(ROWS)], [1 + row % 3 for row in range(ROWS)]
    own, *families = against_fixed_data(_with_own(kl, tokens), _with_own(*other))
    assert own.difference.mean == pytest.approx(sum(kl) / sum(tokens) - sum(other[0]) / sum(other[1]))
    assert [one.family for one in families] == ["likelihood", "fidelity", "task"]

    # the standard error of a difference of two ratios, linearised
    def errors(one: list[float], of: list[int]) -> list[float]:
        ratio = sum(one) / sum(of)
        return [(k - ratio * n) * ROWS / sum(of) for k, n in zip(one, of, strict=True)]

    residuals = [a - b for a, b in zip(errors(kl, tokens), errors(*other), strict=True)]
    half = 2.200985 * math.sqrt(sum(e**2 for e in residuals) / (ROWS - 1) / ROWS)  # t of 11 degrees of freedom
    assert own.difference.low == pytest.approx(own.difference.mean - half, rel=1e-4)


def test_runs_without_their_own_text_row_by_row_are_compared_by_the_rest() -> None:
    one = _with_own([1.0] * ROWS, [4] * ROWS)
    assert [each.metric for each in against_fixed_data(one, judged(2.0, kl=0.1))] == [
        "nats_per_token",
        "kl_from_teacher",
        "value_match",
    ]


def benchmarked(right: int, *, sha256: str = "1", kept: bool = True) -> Judged:
    """A model that is right on the first documents of twelve."""
    base = judged(2.0)
    scores = [float(number < right) for number in range(ROWS)]
    metric = Metric(
        name="quiz/acc,none",
        label="quiz acc",
        family="benchmark",
        unit="share",
        direction="higher",
        value=right / ROWS,
        n=ROWS,
        sample="task documents",
        level="summary",
        meaning="of a test",
    )
    task = TaskRecord(name="quiz", version="1", documents=ROWS, num_fewshot=0, sha256=sha256, harness="0")
    record = base.evaluations[0].model_copy(
        update={"metrics": (*base.evaluations[0].metrics, metric), "tasks": (task,)}
    )
    lines = [dict(line) for line in base.lines[0]]
    if kept:
        lines[0]["task_scores"] = {"quiz/acc,none": scores}
    return Judged([record], [lines], judged_by=base.judged_by)


def test_a_benchmark_is_compared_on_the_same_documents_alone() -> None:
    sft, teacher = benchmarked(3), benchmarked(11)
    (found,) = [one for one in comparisons(benchmarked(7), sft, teacher) if one.family == "benchmark"]
    assert (found.metric, found.topic, found.difference.rows) == ("quiz/acc,none", "quiz acc", ROWS)
    assert found.difference.mean == pytest.approx(4 / 12)
    assert found.recovered is not None and found.recovered.share == pytest.approx(0.5)
    for other in (benchmarked(7, sha256="2"), benchmarked(7, kept=False)):
        assert "benchmark" not in {one.family for one in comparisons(other, sft, teacher)}
    gap = [one for one in comparisons(benchmarked(7), sft, benchmarked(11, kept=False)) if one.family == "benchmark"]
    assert gap[0].recovered is None and gap[0].undefined == "the teacher has no tasks of lm-evaluation-harness"

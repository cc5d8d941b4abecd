"""The metrics of scored tokens: likelihood of the answers, and fidelity to the teacher."""

from __future__ import annotations

import math
from functools import partial
from typing import Literal, NamedTuple

from distillab.evaluation.likelihood import RowScores
from distillab.records import PRIMARY, EvaluationRecord, Metric

NO_SHARED_TEACHER = "no teacher shares the model's tokens"


def bits_per_byte(scores: RowScores, *, scored_bytes: int) -> float:
    """Return the bits per byte of the scored text: Σ nats of the tokens but EOS / (bytes · ln 2).

    Args:
        scored_bytes: UTF-8 bytes of the text of those tokens (`Encoder.scored_bytes`), summed over the rows.
    Source: `bits_per_byte` of EleutherAI's lm-evaluation-harness, which scores no EOS.
    """
    return float(scores.nats.sum() - scores.eos_nats.sum()) / math.log(2) / scored_bytes


class _Fidelity(NamedTuple):
    """A metric of fidelity: which sums it is the mean of, and how it is shown."""

    column: str
    name: str
    label: str
    unit: str
    direction: Literal["lower", "higher"]
    level: Literal["summary", "table"]
    meaning: str


_FIDELITY = (
    _Fidelity(
        column="kl",
        name="kl_from_teacher",
        label="KL from teacher",
        unit="nats/token",
        direction="lower",
        level="summary",
        meaning="KL(teacher ‖ student), the forward direction: expected under the teacher’s distribution, a token, in "
        "nats. Zero means equal distributions. Given only where the two share their tokens.",
    ),
    _Fidelity(
        column="agree",
        name="top1_agreement",
        label="top-1 agreement",
        unit="share",
        direction="higher",
        level="table",
        meaning="share of positions at which student and teacher prefer the same token.",
    ),
    _Fidelity(
        column="acceptance",
        name="acceptance",
        label="acceptance",
        unit="share",
        direction="higher",
        level="summary",
        meaning="Σ min(p, q) over the shared tokens, the mean of all positions: the share of its drafts that the "
        "teacher would accept in speculative decoding with this student as draft model (1 − total variation).",
    ),
)


def fidelity(scores: RowScores | None, *, missing: str, own_text: bool = False, n: int = 0) -> tuple[Metric, ...]:
    """Return the means over all scored tokens that compare the two models' distributions.

    Args:
        scores: of the rows; None, or without a shared teacher: the metrics have no value.
        missing: why they have none.
        own_text: the rows are the student's own generated answers.
        n: how many rows, where there are no scores.
    """
    found = []
    for one in _FIDELITY:
        sums = None if scores is None else getattr(scores, one.column)
        found.append(
            Metric(
                name=f"own_{one.name}" if own_text else one.name,
                label=f"{one.label}, own text" if own_text else one.label,
                family="fidelity",
                unit=one.unit,
                direction=one.direction,
                value=None if scores is None or sums is None else float(sums.sum()) / float(scores.tokens.sum()),
                missing=missing if sums is None else None,
                n=len(scores.keys) if scores is not None else n,
                sample="generations" if own_text else "held-out rows",
                level="table" if own_text else one.level,
                meaning=f"on the student’s own generated answers: {one.meaning}" if own_text else one.meaning,
            )
        )
    return tuple(found)


def summarise(scores: RowScores, *, scored_bytes: int) -> EvaluationRecord:
    """Return the teacher-forced metrics: means over all scored tokens, EOS too; bits per byte over the text alone."""
    tokens = float(scores.tokens.sum())
    ends = float(scores.eos_tokens.sum())
    metric = partial(Metric, family="likelihood", n=len(scores.keys), sample="held-out rows")
    metrics = (
        metric(
            name=PRIMARY,
            label="held-out",
            unit="nats/token",
            direction="lower",
            value=float(scores.nats.sum()) / tokens,
            level="summary",
            meaning="mean of −ln(probability) that a model gives to the next true token of answers it was not trained "
            "on; e to this power is the perplexity. It compares only models with the same tokenizer.",
        ),
        metric(
            name="bits_per_byte",
            label="bits/byte",
            unit="bits",
            direction="lower",
            value=bits_per_byte(scores, scored_bytes=scored_bytes),
            meaning="the same information divided by the bytes of the text (without EOS, as in lm-evaluation-harness), "
            "so that models with different tokenizers can be compared.",
        ),
        metric(
            name="token_accuracy",
            label="token accuracy",
            unit="share",
            direction="higher",
            value=float(scores.correct.sum()) / tokens,
            meaning="share of held-out tokens that are the model’s most likely token.",
        ),
        *fidelity(scores, missing=NO_SHARED_TEACHER),
        metric(
            name="confidence",
            label="confidence",
            unit="share",
            direction=None,
            value=scores.calibration.confidence,
            level="record",
            meaning="mean probability of the model’s most likely token; above the token accuracy: over-confident.",
        ),
        metric(
            name="expected_calibration_error",
            label="calibration error",
            unit="share",
            direction="lower",
            value=scores.calibration.expected_error,
            level="record",
            meaning="mean distance of confidence and accuracy, in 15 bins of confidence (ECE).",
        ),
        metric(
            name="eos_nats",
            label="EOS loss",
            unit="nats/token",
            direction="lower",
            value=float(scores.eos_nats.sum()) / ends if ends else None,
            missing=None if ends else "no held-out answer ends with EOS",
            level="record",
            meaning="the held-out loss of the tokens that end an answer; part of nats/token, not of bits/byte.",
        ),
    )
    return EvaluationRecord(tokens=int(tokens), scored_bytes=scored_bytes, metrics=metrics)

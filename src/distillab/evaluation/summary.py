"""The metrics of scored tokens: likelihood of the answers, and fidelity to the teacher."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

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


def summarise(
    scores: RowScores | None, *, scored_bytes: int, unscored: str = "", unshared: str = NO_SHARED_TEACHER
) -> EvaluationRecord:
    """Return the teacher-forced metrics: means over all scored tokens, EOS too; bits per byte over the text alone.

    Args:
        scores: None: the model gives none.
        scored_bytes: as for `bits_per_byte`.
        unscored: why there are no scores. unshared: why there is no fidelity, if there is none.
    """
    values = {} if scores is None else _likelihood(scores, scored_bytes)
    why = dict.fromkeys(values, "no held-out answer ends with EOS")  # what else a mean can lack
    rows = 0 if scores is None else len(scores.keys)

    def metric(name: str, **shown: Any) -> Metric:
        value = values.get(name)
        missing = why.get(name, unscored) if value is None else None
        return Metric(
            name=name, family="likelihood", n=rows, sample="held-out rows", value=value, missing=missing, **shown
        )

    metrics = (
        metric(
            PRIMARY,
            label="held-out",
            unit="nats/token",
            direction="lower",
            level="summary",
            meaning="mean of −ln(probability) that a model gives to the next true token of answers it was not trained "
            "on; e to this power is the perplexity. It compares only models with the same tokenizer.",
        ),
        metric(
            "bits_per_byte",
            label="bits/byte",
            unit="bits",
            direction="lower",
            meaning="the same information divided by the bytes of the text (without EOS, as in lm-evaluation-harness), "
            "so that models with different tokenizers can be compared.",
        ),
        metric(
            "token_accuracy",
            label="token accuracy",
            unit="share",
            direction="higher",
            meaning="share of held-out tokens that are the model’s most likely token.",
        ),
        *fidelity(scores, missing=unshared if scores is not None else unscored),
        metric(
            "confidence",
            label="confidence",
            unit="share",
            direction=None,
            level="record",
            meaning="mean probability of the model’s most likely token; above the token accuracy: over-confident.",
        ),
        metric(
            "expected_calibration_error",
            label="calibration error",
            unit="share",
            direction="lower",
            level="record",
            meaning="mean distance of confidence and accuracy, in 15 bins of confidence (ECE).",
        ),
        metric(
            "eos_nats",
            label="EOS loss",
            unit="nats/token",
            direction="lower",
            level="record",
            meaning="the held-out loss of the tokens that end an answer; part of nats/token, not of bits/byte.",
        ),
    )
    tokens = 0 if scores is None else int(scores.tokens.sum())
    return EvaluationRecord(tokens=tokens, scored_bytes=scored_bytes, metrics=metrics)


def _likelihood(scores: RowScores, scored_bytes: int) -> dict[str, float | None]:
    """Return the value of each metric of likelihood."""
    tokens, ends = float(scores.tokens.sum()), float(scores.eos_tokens.sum())
    return {
        PRIMARY: float(scores.nats.sum()) / tokens,
        "bits_per_byte": bits_per_byte(scores, scored_bytes=scored_bytes),
        "token_accuracy": float(scores.correct.sum()) / tokens,
        "confidence": scores.calibration.confidence,
        "expected_calibration_error": scores.calibration.expected_error,
        "eos_nats": float(scores.eos_nats.sum()) / ends if ends else None,
    }

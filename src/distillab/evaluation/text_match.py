"""Compare generated answers with their references."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from distillab.evaluation.values import ValueKind, captured, normalised, same_value
from distillab.records import Metric


@dataclass(frozen=True)
class Judged:
    """Metrics of answers; and of those that compare with a reference, the score of every answer, by their names."""

    metrics: tuple[Metric, ...]
    scores: dict[str, list[float]]


def judge(
    answers: Sequence[str],
    references: Sequence[str],
    *,
    stopped: Sequence[bool],
    lengths: Sequence[int],
    value_pattern: str | None,
    value_kind: ValueKind = "number",
    without_reasoning: bool = False,
) -> Judged:
    """Return the metrics of greedy answers, means over rows, and the rows.

    A row whose reference has no captured value counts as a miss for value match.

    Args:
        without_reasoning: reasoning was removed from answers and references; the metrics state it.
    """
    from distillab.evaluation.rouge import rouge_l  # NLTK and SciPy come with it: a second of imports

    n = len(answers)
    pairs = list(zip(answers, references, strict=True))
    scores = {
        "exact_match": [float(answer.strip() == reference.strip()) for answer, reference in pairs],
        "normalised_match": [float(normalised(answer) == normalised(reference)) for answer, reference in pairs],
        "rouge_l": [rouge_l(answer, reference) for answer, reference in pairs],
    }
    if value_pattern is not None:
        values = [(captured(answer, value_pattern), captured(reference, value_pattern)) for answer, reference in pairs]
        scores["value_match"] = [float(same_value(a, r, kind=value_kind)) for a, r in values]
    means = {name: sum(rows) / n for name, rows in scores.items()}
    metric = partial(Metric, family="task", n=n, sample="generations")
    compared = "; compared without their reasoning." if without_reasoning else "."
    metrics = (
        metric(
            name="value_match",
            label="value match",
            unit="share",
            direction="higher",
            value=means.get("value_match"),
            missing=None if value_pattern is not None else "evaluation.value_pattern is not set",
            level="summary",
            meaning="share of greedy answers whose decisive part (what evaluation.value_pattern captures, compared as "
            f"{value_kind}) is right, whatever the wording{compared}",
        ),
        metric(
            name="exact_match",
            label="exact match",
            unit="share",
            direction="higher",
            value=means["exact_match"],
            meaning=f"share of greedy answers equal to the reference, as written{compared}",
        ),
        metric(
            name="normalised_match",
            label="norm. match",
            unit="share",
            direction="higher",
            value=means["normalised_match"],
            meaning=f"exact match with case, space, articles and punctuation evened out{compared}",
        ),
        metric(
            name="rouge_l",
            label="ROUGE-L",
            unit="score",
            direction="higher",
            value=means["rouge_l"],
            level="table" if value_pattern else "summary",
            meaning="F-measure of the longest common subsequence of words with the reference; words of every script"
            f"{compared}",
        ),
        metric(
            name="stopped_by_eos",
            label="stops by EOS",
            unit="share",
            direction=None,
            value=sum(stopped) / n,
            meaning="share of greedy answers that end with a stop token, not at the length limit.",
        ),
        metric(
            name="mean_tokens",
            label="mean length",
            unit="tokens",
            direction=None,
            value=sum(lengths) / n,
            meaning="mean length of the greedy answers, EOS included.",
        ),
    )
    return Judged(metrics, scores)

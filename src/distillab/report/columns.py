"""Make the columns of the report's tables, and its list of metrics, from the metric records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from distillab.records import FAMILIES, PRIMARY, EvaluationRecord, Metric
from distillab.report.numbers import Spread, spread

# unit of the record -> unit of the page, factor, decimals; any other unit is printed as it is, with three decimals
PRINTED = {"share": ("%", 100.0, 1), "score": ("× 100", 100.0, 1), "tokens": ("tokens", 1.0, 1)}


@dataclass(frozen=True)
class Column:
    """One metric in the units of the page.

    Attributes:
        unit, scale, decimals: how its values are printed.
    """

    metric: Metric
    unit: str
    scale: float
    decimals: int

    @property
    def arrow(self) -> str:
        """An arrow that shows which direction is better."""
        return {"lower": "↓", "higher": "↑", None: ""}[self.metric.direction]

    @property
    def better(self) -> str:
        """The same in words, for screen readers."""
        return f"{self.metric.direction} is better" if self.metric.direction else ""

    @property
    def is_primary(self) -> bool:
        """Whether arms are compared by it."""
        return self.metric.name == PRIMARY

    def spread(self, evaluations: Sequence[EvaluationRecord]) -> Spread | None:
        """Return mean and spread over the seeds, in the printed unit; None where no seed has a value."""
        values = [evaluation.value(self.metric.name) for evaluation in evaluations]
        return spread([None if value is None else value * self.scale for value in values])


def columns(evaluations: Iterable[EvaluationRecord], *, summary: bool = False) -> tuple[Column, ...]:
    """Return the metrics that tables show, family by family in the records' order, without those that no model has.

    Args:
        summary: only those of the terminal's table.
    """
    found: dict[str, Metric] = {}
    for metric in (metric for evaluation in evaluations for metric in evaluation.metrics):
        if metric.value is not None and metric.level in (("summary",) if summary else ("summary", "table")):
            found.setdefault(metric.name, metric)
    ordered = sorted(found.values(), key=lambda metric: list(FAMILIES).index(metric.family))
    return tuple(Column(metric, *PRINTED.get(metric.unit, (metric.unit, 1.0, 3))) for metric in ordered)


def glossary(shown: Sequence[Column]) -> tuple[tuple[str, str], ...]:
    """Return every term of the page with its meaning, the metrics first."""
    return (
        *((f"{_capital(column.metric.label)} ({column.unit})", _capital(column.metric.meaning)) for column in shown),
        *_TERMS,
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


_TERMS: tuple[tuple[str, str], ...] = (
    ("± ", "sample standard deviation over training seeds; it does not cover other data."),
    (
        "Δ to SFT",
        "held-out nats/token minus those of SFT, paired over seeds and rows, with a 95 % interval. Negative is better. "
        "Each interval is of one comparison alone; “better” and “worse” are claimed at 5 % for all arms together "
        "(Holm’s adjusted p-values); anything else is “not significant”.",
    ),
    (
        "Gap closed",
        "(arm − SFT) / (teacher − SFT) of a family’s headline: 0 % is SFT, 100 % the teacher (whose KL is 0). The "
        "interval is Fieller’s, over seeds and rows. Undefined where the teacher is not better than SFT beyond its "
        "interval.",
    ),
    ("Log V", "the loss of a model that gives every token of the vocabulary the same probability."),
    (
        "Unigram",
        "the loss of a model that predicts the token frequencies of the training answers, whatever the prompt.",
    ),
    ("SFT, SeqKD", "supervised fine-tuning on the data set’s answers; the same on answers that a teacher wrote."),
)

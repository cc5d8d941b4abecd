"""Compare generated answers with their references."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial

from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer, Tokenizer

from distillab.data.segments import words
from distillab.evaluation.values import ValueKind, captured, normalised, same_value
from distillab.records import Metric


def generation_metrics(
    answers: Sequence[str],
    references: Sequence[str],
    *,
    stopped: Sequence[bool],
    lengths: Sequence[int],
    value_pattern: str | None,
    value_kind: ValueKind = "number",
    without_reasoning: bool = False,
) -> tuple[Metric, ...]:
    """Return the metrics of greedy answers: means over rows.

    A row whose reference has no captured value counts as a miss for value match.

    Args:
        without_reasoning: reasoning was removed from answers and references; the metrics state it.
    """
    n = len(answers)
    pairs = list(zip(answers, references, strict=True))
    value_match = None
    if value_pattern is not None:
        values = [(captured(answer, value_pattern), captured(reference, value_pattern)) for answer, reference in pairs]
        value_match = sum(same_value(a, r, kind=value_kind) for a, r in values) / n
    metric = partial(Metric, n=n, sample="generations")
    compared = "; compared without their reasoning." if without_reasoning else "."
    return (
        metric(
            name="value_match",
            label="value match",
            unit="share",
            direction="higher",
            value=value_match,
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
            value=sum(answer.strip() == reference.strip() for answer, reference in pairs) / n,
            meaning=f"share of greedy answers equal to the reference, as written{compared}",
        ),
        metric(
            name="normalised_match",
            label="norm. match",
            unit="share",
            direction="higher",
            value=sum(normalised(answer) == normalised(reference) for answer, reference in pairs) / n,
            meaning=f"exact match with case, space, articles and punctuation evened out{compared}",
        ),
        metric(
            name="rouge_l",
            label="ROUGE-L",
            unit="score",
            direction="higher",
            value=sum(_rouge().score(reference, answer)["rougeL"].fmeasure for answer, reference in pairs) / n,
            level="summary",
            meaning="F-measure of the longest common subsequence of words with the reference; words of every script"
            f"{compared}",
        ),
        metric(
            name="stopped_by_eos",
            label="stops by EOS",
            unit="share",
            direction=None,
            value=sum(stopped) / n,
            level="summary",
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


class UnicodeWords(Tokenizer):  # type: ignore[misc]  # the package has no types
    """Words of every script for ROUGE; for text in ASCII exactly the tokens of rouge_score with its Porter stemmer.

    The package's own tokenizer keeps only a to z and 0 to 9, and treats any other letter as a space.
    """

    def __init__(self) -> None:
        self._ascii = DefaultTokenizer(use_stemmer=True)

    def tokenize(self, text: str) -> list[str]:
        """Return the tokens of a text; words in ASCII are stemmed."""
        found = words(text)
        return [(self._ascii.tokenize(word) or [word])[0] if word.isascii() else word for word in found]


@cache
def _rouge() -> RougeScorer:
    return RougeScorer(["rougeL"], tokenizer=UnicodeWords())

"""Compares a generated answer with the reference."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer, Tokenizer

from distillab.data.segments import words
from distillab.evaluation.values import ValueKind, captured, normalised, same_value
from distillab.records import GenerationMetrics


def generation_metrics(
    answers: Sequence[str],
    references: Sequence[str],
    *,
    stopped: Sequence[bool],
    lengths: Sequence[int],
    value_pattern: str | None,
    value_kind: ValueKind = "number",
) -> GenerationMetrics:
    """Means over rows. A row whose reference has no captured value counts as a miss for value match."""
    n = len(answers)
    pairs = list(zip(answers, references, strict=True))
    value_match = None
    if value_pattern is not None:
        values = [(captured(answer, value_pattern), captured(reference, value_pattern)) for answer, reference in pairs]
        value_match = sum(same_value(a, r, kind=value_kind) for a, r in values) / n
    return GenerationMetrics(
        n=n,
        exact_match=sum(answer.strip() == reference.strip() for answer, reference in pairs) / n,
        normalised_match=sum(normalised(answer) == normalised(reference) for answer, reference in pairs) / n,
        value_match=value_match,
        value_kind=value_kind,
        rouge_l=sum(_rouge().score(reference, answer)["rougeL"].fmeasure for answer, reference in pairs) / n,
        rouge_tokenizer="unicode",
        stopped_by_eos=sum(stopped) / n,
        mean_tokens=sum(lengths) / n,
    )


class UnicodeWords(Tokenizer):  # type: ignore[misc]  # the package has no types
    """Words of every script for ROUGE; for text in ASCII exactly the tokens of rouge_score with its Porter stemmer.

    The package's own tokenizer knows a to z and 0 to 9 alone: any other letter is a space to it.
    """

    def __init__(self) -> None:
        self._ascii = DefaultTokenizer(use_stemmer=True)

    def tokenize(self, text: str) -> list[str]:
        """The tokens of a text; words in ASCII are stemmed."""
        found = words(text)
        return [(self._ascii.tokenize(word) or [word])[0] if word.isascii() else word for word in found]


@cache
def _rouge() -> RougeScorer:
    return RougeScorer(["rougeL"], tokenizer=UnicodeWords())

"""ROUGE-L of an answer and its reference, in every script."""

from __future__ import annotations

from functools import cache

from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer, Tokenizer

from distillab.data.segments import words


def rouge_l(answer: str, reference: str) -> float:
    """Return the F measure of ROUGE-L, by the package rouge_score with words of every script."""
    score: float = _scorer().score(reference, answer)["rougeL"].fmeasure
    return score


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
def _scorer() -> RougeScorer:
    return RougeScorer(["rougeL"], tokenizer=UnicodeWords())

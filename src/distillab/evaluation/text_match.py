"""Compares a generated answer with the reference."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from functools import cache

from rouge_score.rouge_scorer import RougeScorer

from distillab.records import GenerationMetrics


def normalised(text: str) -> str:
    """Lower case, no punctuation at the ends of words, no articles, single spaces.

    The SQuAD convention (Rajpurkar et al. 2016), but numbers keep their meaning: "3.5" is not "35", "-4" not "4".

    >>> normalised(" The  answer: -3.5. ")
    'answer -3.5'
    """
    words = (_bare(word) for word in text.lower().split())
    return " ".join(word for word in words if word and word not in ("a", "an", "the"))


def _bare(word: str) -> str:
    bare = word.strip(string.punctuation)
    before = word[: word.find(bare)]
    return f"-{bare}" if before.endswith("-") and bare[:1].isdigit() else bare


def captured(text: str, pattern: str) -> str | None:
    """What the one group of `pattern` captures at its last match, normalised; None without a match.

    >>> captured("2 + 2 is 4. #### 4", r"#### (.+)")
    '4'
    """
    found = re.findall(pattern, text)
    return normalised(found[-1]) if found else None


def generation_metrics(
    answers: Sequence[str],
    references: Sequence[str],
    *,
    stopped: Sequence[bool],
    lengths: Sequence[int],
    value_pattern: str | None,
) -> GenerationMetrics:
    """Means over rows. A row whose reference has no captured value counts as a miss for value match."""
    n = len(answers)
    pairs = list(zip(answers, references, strict=True))
    value_match = None
    if value_pattern is not None:
        values = [(captured(answer, value_pattern), captured(reference, value_pattern)) for answer, reference in pairs]
        value_match = sum(a is not None and a == r for a, r in values) / n
    return GenerationMetrics(
        n=n,
        exact_match=sum(answer.strip() == reference.strip() for answer, reference in pairs) / n,
        normalised_match=sum(normalised(answer) == normalised(reference) for answer, reference in pairs) / n,
        value_match=value_match,
        rouge_l=sum(_rouge().score(reference, answer)["rougeL"].fmeasure for answer, reference in pairs) / n,
        stopped_by_eos=sum(stopped) / n,
        mean_tokens=sum(lengths) / n,
    )


@cache
def _rouge() -> RougeScorer:
    return RougeScorer(["rougeL"], use_stemmer=True)

"""Reference values of the loss: a uniform guess, and token frequencies alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

from distillab.data.encoded_rows import EncodedRow, answer_id_counts
from distillab.records import ReferenceLines


def reference_lines(train: Sequence[EncodedRow], held_out: Sequence[EncodedRow], *, vocabulary: int) -> ReferenceLines:
    """Return log V, and the nats per token of the unigram model of the training answers on the held-out answers.

    Args:
        vocabulary: number of ids of the tokenizer.
    """
    nats_of = unigram_nats(train, vocabulary=vocabulary)
    nats = [nats_of(token) for row in held_out for token in _answer_ids(row)]
    return ReferenceLines(uniform_nats=math.log(vocabulary), unigram_nats=sum(nats) / len(nats))


def unigram_nats(train: Sequence[EncodedRow], *, vocabulary: int) -> Callable[[int], float]:
    """Return token -> nats by the unigram model of the training answers.

    It counts every supervised token (EOS too) and adds one to every count, so that a token unseen in training has some
    probability.
    """
    counts = answer_id_counts(train, vocabulary=vocabulary)
    total = int(counts.sum()) + vocabulary
    return lambda token: -math.log(((int(counts[token]) if token < len(counts) else 0) + 1) / total)


def standard_error(differences: Sequence[float], tokens: int) -> float:
    """Return the standard error of a mean over tokens, rows being independent.

    Args:
        differences: of each row, summed over its tokens.
        tokens: of all rows.
    """
    return statistics.stdev(differences) * math.sqrt(len(differences)) / tokens


def _answer_ids(row: EncodedRow) -> list[int]:
    return [int(token) for token, scored in zip(row.input_ids, row.answer_mask, strict=True) if scored]

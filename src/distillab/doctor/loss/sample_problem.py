"""A small batch of logits on which a loss function is tried, and its variations.

Shape letters: B sequences, L positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

# Logits that far below the others hold no mass that float32 sees in a sum, and no formula underflows on them.
_UNUSED_LOGIT = -25.0
# (prompt, answer) tokens of each row: all rows differ, every row has padding, and no two sizes that a loss might be
# divided by (tokens, positions, rows, vocabulary) are equal. The first row is the one that is watched.
_ROWS = ((4, 5), (2, 9), (6, 3), (3, 8))
_LENGTH = 13
# A scored position of the first row, also where its labels are read one position too early or too late, and where
# its last two tokens are no longer scored.
WATCHED = 4


@dataclass(frozen=True)
class LogitBatch:
    """What a distillation loss reads.

    student, teacher: (B, L, V) float logits. labels: (B, L) int64, not shifted, -100 where not scored.
    attention: (B, L) int64, 1 at tokens. start: columns that were put in front of the first row's first token.
    """

    student: Tensor
    teacher: Tensor
    labels: Tensor
    attention: Tensor
    start: int = 0

    def at_labels(self, ahead: int) -> Tensor:
        """Return (B, L) bool: position t, where labels[t + ahead] is a token. ahead = 1: what a causal loss scores."""
        supervised = self.labels != -100
        length = supervised.shape[1]
        marks = torch.zeros_like(supervised)
        marks[:, : length - ahead] = supervised[:, ahead:]
        return marks

    @property
    def scored(self) -> Tensor:
        """(B, L) bool: the logits of t are scored against the label of t + 1."""
        return self.at_labels(1)

    @property
    def sizes(self) -> str:
        """The batch in words."""
        rows, length, vocabulary = self.student.shape
        return f"{rows} rows × {length} positions × {vocabulary} tokens, {int(self.scored.sum())} positions scored"


def invented(vocabulary: int, *, padded: bool, seed: int) -> LogitBatch:
    """Return four rows of random logits: with right padding, or full rows."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(_ROWS), _LENGTH, vocabulary)
    labels = torch.full(shape[:2], -100)
    attention = torch.ones(shape[:2], dtype=torch.int64)
    for row, (prompt, answer) in enumerate(_ROWS):
        end = prompt + answer if padded else _LENGTH
        labels[row, prompt:end] = torch.randint(0, vocabulary, (end - prompt,), generator=generator)
        attention[row, end:] = 0
    student = torch.randn(shape, generator=generator) * 1.5
    teacher = torch.randn(shape, generator=generator) * 2.0
    return LogitBatch(student, teacher, labels, attention)


def fresh_logits(batch: LogitBatch, seed: int) -> Tensor:
    """Return (B, L, V) other random logits of the teacher's kind."""
    return torch.randn(batch.teacher.shape, generator=torch.Generator().manual_seed(seed)) * 2.0


def with_rows(batch: LogitBatch, rows: Sequence[int]) -> LogitBatch:
    """Return these rows, in this order."""
    chosen = list(rows)
    return replace(
        batch,
        student=batch.student[chosen],
        teacher=batch.teacher[chosen],
        labels=batch.labels[chosen],
        attention=batch.attention[chosen],
    )


def with_columns(batch: LogitBatch, columns: int, *, prompt: bool, left: bool) -> LogitBatch:
    """Add columns in front or behind: prompt tokens, or padding; their logits are arbitrary numbers."""
    rows, _, vocabulary = batch.student.shape
    generator = torch.Generator().manual_seed(columns)
    more = [torch.randn(rows, columns, vocabulary, generator=generator) * 2.0 for _ in range(2)]
    labels = torch.full((rows, columns), -100)
    attention = torch.full((rows, columns), int(prompt))

    def joined(old: Tensor, new: Tensor) -> Tensor:
        return torch.cat([new, old] if left else [old, new], dim=1)

    return LogitBatch(
        joined(batch.student, more[0]),
        joined(batch.teacher, more[1]),
        joined(batch.labels, labels),
        joined(batch.attention, attention),
        batch.start + (columns if left else 0),
    )


def padded_left(batch: LogitBatch) -> LogitBatch:
    """Return the same rows with their padding in front."""
    length = batch.attention.shape[1]
    back = (length - batch.attention.sum(dim=1, keepdim=True)) % length
    order = (torch.arange(length)[None] - back) % length
    across = order[..., None].expand_as(batch.student)
    return LogitBatch(
        batch.student.gather(1, across),
        batch.teacher.gather(1, across),
        batch.labels.gather(1, order),
        batch.attention.gather(1, order),
        int(back[0]),
    )


def with_unused_tokens(batch: LogitBatch, count: int) -> LogitBatch:
    """Add tokens to the vocabulary to which neither model gives any probability."""
    unused = torch.full((*batch.student.shape[:2], count), _UNUSED_LOGIT)
    return replace(
        batch, student=torch.cat([batch.student, unused], dim=2), teacher=torch.cat([batch.teacher, unused], dim=2)
    )


def with_fewer_scored(batch: LogitBatch) -> LogitBatch:
    """Remove the first row's last two scored tokens from the mask."""
    labels = batch.labels.clone()
    last = (labels[0] != -100).nonzero()[-2:, 0]
    labels[0, last] = -100
    return replace(batch, labels=labels)


def renamed(batch: LogitBatch, seed: int) -> LogitBatch:
    """Give every token another id, for both models and in the labels."""
    order = torch.randperm(batch.student.shape[2], generator=torch.Generator().manual_seed(seed))
    labels = torch.where(batch.labels >= 0, order.argsort()[batch.labels.clamp(min=0)], batch.labels)
    return replace(batch, student=batch.student[..., order], teacher=batch.teacher[..., order], labels=labels)

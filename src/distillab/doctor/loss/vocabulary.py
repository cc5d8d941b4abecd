"""How a loss reads the vocabulary: the softmax's dimension, the identity of tokens, the teacher's tail.

Shape letters: B sequences, L positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from distillab.doctor.checks import from_page
from distillab.doctor.loss.call import LogitBatch, Measured, renamed
from distillab.doctor.loss.subject import NOTHING_LEFT, Subject, alike
from distillab.records.findings import Finding

# A teacher this flat gives its tail a mass that can be seen.
_FLATTENED = 0.3


def softmax_findings(subject: Subject) -> Iterator[Finding]:
    """Return the finding of a softmax over another dimension: a softmax ignores a number added to all its logits."""
    models = ["teacher"] if subject.hard.offset is not None else ["student", "teacher"]
    for model in models:
        rows, length, vocabulary = subject.batch.student.shape
        generator = torch.Generator().manual_seed(5)
        over_tokens = torch.randn(rows, length, 1, generator=generator) * 2.0
        over_others = torch.randn(1, 1, vocabulary, generator=generator) * 2.0
        right, wrong = _added(subject, model, over_tokens), _added(subject, model, over_others)
        if right is None or wrong is None or alike(right, subject.base, share=1e-3):
            continue
        if alike(wrong, subject.base, share=1e-3):
            yield from_page(
                "loss-softmax-over-wrong-dimension",
                f"a number added to all of the {model}'s logits of a position changes the value from "
                f"{subject.base.value:.4g} to {right.value:.4g}; a softmax over tokens would not change",
                f"a number added to one token at all positions does not: {wrong.value:.4g}",
            )
            return


def _added(subject: Subject, model: str, number: Tensor) -> Measured | None:
    batch = subject.batch
    changed = (
        replace(batch, student=batch.student + number)
        if model == "student"
        else replace(batch, teacher=batch.teacher + number)
    )
    return subject.caller.attempt(changed)


def token_findings(subject: Subject) -> Iterator[Finding]:
    """Return findings on the order of the ids, on which token is which, and on the teacher's tail."""
    other = subject.caller.attempt(renamed(subject.batch, seed=3))
    if other is not None and abs(other.value - subject.base.value) > 1e-4 * abs(subject.base.value):
        yield from_page(
            "loss-depends-on-token-order", f"value {subject.base.value:.4g}; with renamed tokens {other.value:.4g}"
        )
    if _is_blind(subject):
        yield from_page(
            "loss-blind-to-token-identity",
            "the teacher's logits in another order of tokens give the same value and gradient",
            severity="note" if subject.hard.offset is not None else "warning",
        )
    else:
        yield from _tail_findings(subject)


def _is_blind(subject: Subject) -> bool:
    order = torch.randperm(subject.batch.teacher.shape[-1], generator=torch.Generator().manual_seed(11))
    now = subject.caller.attempt(replace(subject.batch, teacher=subject.batch.teacher[..., order]))
    return now is not None and subject.teacher_is_target and alike(now, subject.base)


def _tail_findings(subject: Subject) -> Iterator[Finding]:
    kept = kept_tokens(subject)
    if kept is None or not subject.teacher_is_target or not subject.reads_teacher_alone:
        return
    order = subject.batch.teacher.argsort(dim=-1, descending=True)
    in_tail = subject.soft_gradient.gather(-1, order)[..., kept:]
    tail_is_seen = float(in_tail.norm()) > 1e-3 * float(subject.soft_gradient.norm())
    if subject.left_at_teacher < NOTHING_LEFT and tail_is_seen:
        return
    yield from_page(
        "loss-drops-teacher-tail",
        f"only the teacher's {kept} most likely of {order.shape[-1]} tokens have an influence",
        f"gradient at student = teacher: {subject.left_at_teacher:.1%} of that at independent logits",
        f"the student's other tokens have {'a' if tail_is_seen else 'no'} gradient",
        case="top k",
    )


def kept_tokens(subject: Subject) -> int | None:
    """Return how many of the teacher's most likely tokens are used; None if all are."""
    batch = subject.batch
    flat = replace(batch, teacher=batch.teacher * _FLATTENED)
    base = subject.caller.attempt(flat)
    if base is None:
        return None
    vocabulary = batch.teacher.shape[-1]
    for kept in range(1, vocabulary - 1):
        now = subject.caller.attempt(_tail_reversed(flat, kept))
        if now is not None and alike(now, base):
            return kept
    return None


def _tail_reversed(batch: LogitBatch, kept: int) -> LogitBatch:
    values, order = batch.teacher.sort(dim=-1, descending=True)
    values = torch.cat([values[..., :kept], values[..., kept:].flip(-1)], dim=-1)
    return replace(batch, teacher=torch.empty_like(values).scatter(-1, order, values))

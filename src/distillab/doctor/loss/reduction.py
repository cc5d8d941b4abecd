"""By what a loss function divides: seen from one position's gradient in batches of other shapes.

The watched position keeps its logits and its label in all of them, so its gradient changes by the divisor alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from distillab.doctor.checks import from_page
from distillab.doctor.loss.call import (
    WATCHED,
    LogitBatch,
    LossCaller,
    padded_left,
    with_columns,
    with_fewer_scored,
    with_rows,
    with_unused_tokens,
)
from distillab.doctor.loss.formulas import Fit
from distillab.doctor.loss.subject import HardPart, Subject
from distillab.records.findings import Finding

_TOLERANCE = 3e-3
UNUSED_TOKENS = "nine more unused tokens in the vocabulary"
MORE_PROMPT = "four more prompt tokens in every row"
MORE_PADDING = "five more columns of padding"
LEFT_PADDING = "padding on the left"
# Tokens of which the gradient is watched: they are in every variation of the vocabulary.
_FIRST_TOKENS = 16

_IN_NATS = ("forward_kl", "reverse_kl", "jensen_shannon", "skewed_forward_kl", "skewed_reverse_kl", "mixed_kl")


@dataclass(frozen=True)
class Divisor:
    """Something that a sum over positions may be divided by. of: its size for a batch, given the divisor of its row 0.

    kind: sum, tokens, sequences, batch (grows with length), positions (counts what is not scored), attended.
    """

    kind: str
    words: str
    of: Callable[[LogitBatch], float]
    vocabulary: bool = False


@dataclass(frozen=True)
class Reduction:
    """divisor: None where no known one explains the gradients. changes: variation -> factor of the watched gradient."""

    divisor: Divisor | None
    changes: dict[str, float]


def _count(marks: Tensor) -> float:
    return float(marks.sum())


def _rows(batch: LogitBatch) -> float:
    return float(batch.labels.shape[0])


def _length(batch: LogitBatch) -> float:
    return float(batch.labels.shape[1])


def _with_vocabulary(one: Divisor) -> Divisor:
    words = one.words + ", and by V, the size of the vocabulary"
    return Divisor(one.kind, words, lambda batch: one.of(batch) * batch.student.shape[2], vocabulary=True)


_PLAIN = (
    Divisor("tokens", "mean over scored tokens", lambda b: _count(b.scored)),
    Divisor("sum", "sum over tokens", lambda b: 1.0),
    Divisor(
        "sequences", "mean over each sequence's tokens, then over sequences", lambda b: _rows(b) * _count(b.scored[0])
    ),
    Divisor("row_means", "mean over each sequence's tokens, summed over sequences", lambda b: _count(b.scored[0])),
    Divisor("batch", "sum over each sequence's tokens, divided by the number of sequences", _rows),
    Divisor("positions", "divided by all B × L positions", lambda b: _rows(b) * _length(b)),
    Divisor("positions", "divided by all B × (L − 1) positions", lambda b: _rows(b) * (_length(b) - 1)),
    Divisor("positions", "divided by L, the padded length", _length),
    Divisor("positions", "divided by L − 1, the padded length", lambda b: _length(b) - 1),
    Divisor("attended", "divided by all tokens of the attention mask", lambda b: _count(b.attention)),
    Divisor("attended", "divided by all tokens that some position predicts", lambda b: _count(b.attention[:, 1:])),
    Divisor(
        "attended", "divided by each row's tokens, then by the sequences", lambda b: _rows(b) * _count(b.attention[0])
    ),
)
DIVISORS = (*_PLAIN, *map(_with_vocabulary, _PLAIN))


def variations(batch: LogitBatch, *, padded: bool) -> dict[str, LogitBatch]:
    """Return batches of other shapes that all contain the watched row."""
    made = {
        "the first row alone": with_rows(batch, [0]),
        "the first two rows": with_rows(batch, [0, 1]),
        "every row twice": with_rows(batch, [0, 1, 2, 3, 0, 1, 2, 3]),
        MORE_PROMPT: with_columns(batch, 4, prompt=True, left=True),
        UNUSED_TOKENS: with_unused_tokens(batch, 9),
        "two of the first row's tokens no longer scored": with_fewer_scored(batch),
    }
    if padded:
        made[MORE_PADDING] = with_columns(batch, 5, prompt=False, left=False)
        made[LEFT_PADDING] = padded_left(batch)
    return made


def measured_reductions(
    caller: LossCaller, batch: LogitBatch, hard: HardPart, *, padded: bool
) -> tuple[Reduction | None, Reduction | None]:
    """Measure the gradient of the first row's position `WATCHED` in all variations.

    Returns:
        The reduction of what is read from the teacher, and of the cross-entropy with labels; None for a part that
        has no gradient there.
    """
    base = _watched(caller, batch, hard)
    if base is None:
        return None, None
    soft_base, hard_base = base
    size = float(soft_base.norm())
    # what is left of a gradient where everything is taken away is rounding
    has_soft, has_hard = size > 1e-4 * (size + abs(hard_base)), abs(hard_base) > 0
    soft: dict[str, float] = {}
    labels: dict[str, float] = {}
    tried_batches = {"": batch}
    for words, tried in variations(batch, padded=padded).items():
        now = _watched(caller, tried, hard)
        if now is None:
            continue
        tried_batches[words] = tried
        if has_soft:
            soft[words] = float(now[0] @ soft_base) / size**2
        if has_hard:
            labels[words] = now[1] / hard_base
    return (
        Reduction(_explained(soft, tried_batches), soft) if has_soft else None,
        Reduction(_explained(labels, tried_batches), labels) if has_hard else None,
    )


def _watched(caller: LossCaller, batch: LogitBatch, hard: HardPart) -> tuple[Tensor, float] | None:
    """Return the teacher's part of the watched gradient, (V,) over the first batch's tokens, and the labels' weight."""
    measured = caller.attempt(batch)
    if measured is None:
        return None
    at = WATCHED + batch.start
    gradient = measured.gradient[0, at].double()
    weight = 0.0
    if hard.offset is not None:
        labels = batch.labels.clone()
        before = int(labels[0, at - hard.offset])
        after = (before + 1) % _FIRST_TOKENS
        labels[0, at - hard.offset] = after
        moved = caller(replace(batch, labels=labels)).gradient[0, at].double() - gradient
        weight = float(moved[before] - moved[after]) / 2
        here = HardPart(torch.tensor([[weight]]), torch.tensor([[before]]), -1, True, hard.temperature, hard.smoothing)
        gradient = gradient - here.gradient(batch.student[:1, at : at + 1])[0, 0].double()
    return gradient[:_FIRST_TOKENS], weight


def _explained(changes: dict[str, float], batches: dict[str, LogitBatch]) -> Divisor | None:
    """Return the first divisor whose sizes explain all changes.

    Where none does, the variation of the vocabulary is left out: a loss that reads all tokens alike, as a distance of
    logits does, changes with it in its own way.
    """
    for known in (changes, {words: now for words, now in changes.items() if words != UNUSED_TOKENS}):
        for divisor in DIVISORS:
            here = divisor.of(batches[""])
            if all(abs(now * divisor.of(batches[words]) / here - 1.0) < _TOLERANCE for words, now in known.items()):
                return divisor
    return None


def divisor_findings(subject: Subject, reduction: Reduction | None, part: str, fit: Fit | None) -> Iterator[Finding]:
    """Return findings on a divisor that contains the vocabulary or unscored positions, or no length at all.

    Args:
        part: what the reduction is of, in words.
        fit: the formula of that part; None for the labels' cross-entropy.
    """
    if reduction is None:
        return
    divisor = reduction.divisor
    counts_padding = bool((subject.footprint.student & (subject.batch.attention == 0)).any())
    if divisor is None:
        if not counts_padding:
            yield from _depends_on_padding(reduction, part)
        return
    evidence = (f"{part}: {divisor.words}",)
    if divisor.vocabulary:
        nats = fit is None or (fit.holds and fit.formula.family in _IN_NATS)
        squared = fit is not None and fit.holds and fit.formula.family.startswith("squared")
        yield from_page(
            "loss-divided-by-vocabulary",
            *evidence,
            f"{_change(reduction, UNUSED_TOKENS)} with 9 more unused tokens",
            severity="error" if nats else "note" if squared else "warning",
        )
    unscored = (subject.batch.attention == 1) & ~subject.batch.scored
    counts_it_all = divisor.kind == "attended" and bool((subject.footprint.student & unscored).any())
    if divisor.kind in ("positions", "attended") and subject.takes_mask and not counts_padding and not counts_it_all:
        yield _unscored(subject, reduction, evidence, divisor.kind)
    if divisor.kind == "batch" and not divisor.vocabulary:
        yield from_page(
            "loss-grows-with-length", *evidence, "kl_div(reduction='batchmean') does this for logits of shape (B, L, V)"
        )


def _unscored(subject: Subject, reduction: Reduction, evidence: tuple[str, ...], kind: str) -> Finding:
    scored, every = int(subject.batch.scored.sum()), subject.batch.labels.numel()
    padding = kind == "positions"
    return from_page(
        "loss-divides-by-unscored-positions",
        *evidence,
        f"{scored} of {every} positions are scored here",
        *([f"{_change(reduction, MORE_PADDING)} with {MORE_PADDING}"] if padding else []),
        f"{_change(reduction, MORE_PROMPT)} with {MORE_PROMPT}",
        severity="error" if padding and subject.padded else "warning",
    )


def _depends_on_padding(reduction: Reduction, part: str) -> Iterator[Finding]:
    changed = [words for words in (MORE_PADDING, LEFT_PADDING) if abs(reduction.changes.get(words, 1.0) - 1.0) > 1e-2]
    if not changed:
        return
    right = MORE_PADDING in changed
    yield from_page(
        "loss-depends-on-padding",
        *tuple(f"{part}: {_change(reduction, words)} with {words}" for words in changed),
        case="right" if right else "left",
    )


def _change(reduction: Reduction, words: str) -> str:
    return f"the gradient is multiplied by {reduction.changes[words]:.3g}" if words in reduction.changes else "refused"

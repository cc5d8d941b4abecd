"""What each way of storing a teacher keeps of its word: bytes, the distribution that comes back, the gradient it gives.

Shape letters: N scored positions, V ids, K kept ids.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bench.cache_pairs import CPU
from distillab.config.cache import FullKind, KindConfig, SampledKind, TopKKind
from distillab.config.terms import (
    CrossEntropyConfig,
    SampledDivergenceConfig,
    TermConfig,
    TokenDivergenceConfig,
    TopKDivergenceConfig,
)
from distillab.data.collation import Collator, IndexedRow
from distillab.data.encoding import EncodedRow
from distillab.divergences import forward_kl
from distillab.divergences.truncated import with_tail_cell
from distillab.models.chunking import chunks
from distillab.models.scoring import scored_count
from distillab.objectives import build_objective
from distillab.objectives.step import measure
from distillab.teachers.protocol import SignalSource
from distillab.teachers.signals import NextTokens, TeacherSignal

LIVE = "live"


@dataclass(frozen=True)
class Way:
    """A kind of signal and the term that learns from it; `kind` is None where nothing is stored."""

    name: str
    kind: KindConfig | None
    term: TermConfig


def ways() -> tuple[Way, ...]:
    """Every line of the quality table, the plain fine-tuning and the live teacher first."""
    found = [
        Way("sft", None, CrossEntropyConfig()),
        Way(LIVE, None, TokenDivergenceConfig()),
        Way("full", FullKind(), TokenDivergenceConfig()),
    ]
    for tail, sizes in (("cell", (4, 16, 64)), ("renormalise", (4, 16, 64)), ("drop_tail", (4, 16, 64))):
        for k in sizes:
            found.append(Way(f"top_k {k}, {tail}", TopKKind(k=k), TopKDivergenceConfig(k=k, tail=tail)))
    for draws in (12, 16, 50, 200):
        found.append(Way(f"sampled {draws}", SampledKind(draws=draws), SampledDivergenceConfig(samples=draws)))
    return tuple(found)


def gradients(
    student: PreTrainedModel,
    teacher: SignalSource,
    term: TermConfig,
    rows: Sequence[EncodedRow],
    *,
    collator: Collator,
    width: int,
    batches: Sequence[int],
    batch_size: int = 8,
) -> list[tuple[int, Tensor]]:
    """Gradients of the summed loss with respect to all of the student's parameters, one flat float64 tensor each.

    Args:
        batches: scored tokens after which the sum so far is given, rising.
    Returns:
        (tokens really summed, gradient), one for each entry of `batches` that the rows reach, and for all of them
        where they do not reach the last.
    """
    objective = build_objective((term,), shared_width=width)
    student.eval()
    student.zero_grad(set_to_none=True)
    found: list[tuple[int, Tensor]] = []
    tokens, wanted = 0, list(batches)
    for start in range(0, len(rows), batch_size):
        batch = collator([IndexedRow(start + n, row) for n, row in enumerate(rows[start : start + batch_size])])
        signal = teacher.signal(batch, objective.request) if objective.request else TeacherSignal()
        measured = measure(student, batch, objective, signal, factors=dict.fromkeys(objective.names, 1.0), device=CPU)
        torch.stack(list(measured.losses.values())).sum().backward()
        tokens += scored_count(batch)
        while wanted and tokens >= wanted[0]:
            found.append((tokens, _flat(student)))
            wanted.pop(0)
        if not wanted:
            break
    if wanted and (not found or found[-1][0] != tokens):
        found.append((tokens, _flat(student)))
    student.zero_grad(set_to_none=True)
    return found


@dataclass(frozen=True)
class Recovered:
    """What comes back, against what the teacher says, in nats; means over positions.

    Attributes:
        positions: compared.
        from_true: KL(true ‖ recovered), infinite where a token of the teacher comes back with no probability.
        to_true: KL(recovered ‖ true).
        mass: the teacher's probability of the ids that were stored.
        distinct: ids stored a position.
    """

    positions: int
    from_true: float
    to_true: float
    mass: float
    distinct: float


@torch.no_grad()
def recovered(
    live: SignalSource,
    stored: SignalSource,
    way: Way,
    rows: Sequence[EncodedRow],
    *,
    collator: Collator,
    width: int,
    batch_size: int = 8,
) -> Recovered:
    """Compare what `stored` gives to the way's term with what `live` says, over all scored tokens of `rows`.

    Top-k with a tail cell is compared over its k + 1 outcomes, for that is all it claims. Top-k without its tail, and
    draws, are compared over all ids: as the distribution that a student is driven to there, the kept ids made to sum
    to one, or counts over draws.
    """
    full, own = (build_objective((term,), shared_width=width).request for term in (TokenDivergenceConfig(), way.term))
    sums = torch.zeros(4, dtype=torch.float64)
    positions = 0
    for start in range(0, len(rows), batch_size):
        batch = collator([IndexedRow(start + n, row) for n, row in enumerate(rows[start : start + batch_size])])
        true, kept = live.signal(batch, full).scores, stored.signal(batch, own).scores
        assert true is not None
        assert kept is not None
        count = scored_count(batch)
        for here in chunks(count, width, CPU):
            logp_TV = true.chunk(here, CPU).logp(width, 1.0)
            one, other, ids = _outcomes(way, logp_TV, kept.chunk(here, CPU), width)
            sums[0] += forward_kl(student_logp=other, teacher_logp=one).double().sum()
            sums[1] += forward_kl(student_logp=one, teacher_logp=other).double().sum()
            sums[2] += (logp_TV.exp() * ids).double().sum()
            sums[3] += ids.sum()
        positions += count
    return Recovered(positions, *(sums / positions).tolist())


def _outcomes(way: Way, logp_TV: Tensor, kept: NextTokens, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """True and recovered log-probabilities over the same outcomes, and (T, V) bool: which ids are stored."""
    term = way.term
    stored_TV = torch.zeros_like(logp_TV, dtype=torch.bool)
    if isinstance(term, TopKDivergenceConfig):
        top = kept.top(term.k, width, 1.0)
        stored_TV.scatter_(1, top.ids, True)
        if term.tail == "cell":
            ours, theirs = with_tail_cell(
                student_logp=logp_TV, kept_ids=top.ids, kept_logp=top.logp, tail_logmass=top.tail_logmass
            )
            return ours, theirs, stored_TV
        whole_TV = torch.full_like(logp_TV, -torch.inf).scatter_(1, top.ids, top.logp.log_softmax(dim=-1))
        return logp_TV, whole_TV, stored_TV
    if isinstance(term, SampledDivergenceConfig):
        ids = kept.drawn(term.samples, width, 1.0).ids
        counts_TV = torch.zeros_like(logp_TV).scatter_add_(1, ids, torch.ones_like(ids, dtype=logp_TV.dtype))
        return logp_TV, (counts_TV / term.samples).log(), counts_TV > 0
    return logp_TV, kept.logp(width, 1.0), torch.ones_like(stored_TV)


def angle_degrees(one: Tensor, other: Tensor) -> float:
    """Angle between two flat gradients."""
    # from the chord, which is exact for small angles where the cosine is not
    a, b = one / one.norm(), other / other.norm()
    return math.degrees(2.0 * math.asin(min(1.0, float((a - b).norm()) / 2.0)))


def _flat(student: PreTrainedModel) -> Tensor:
    return torch.cat([p.grad.flatten().double() for p in student.parameters() if p.grad is not None])

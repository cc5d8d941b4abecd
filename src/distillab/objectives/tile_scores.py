"""Compute the gradient of terms with respect to a tile of logits, from a few numbers that they read of it.

Terms read log-probabilities of some tokens, or divergences from the teacher's distribution. Torch differentiates the
terms with respect to these numbers; from there to the logits the gradient is written by the formulas' own slopes,
through the softmax once for all of them.

Shape letters: N positions of the tile, V student vocabulary, W ids of a distribution, K ids read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from distillab.divergences.fused import Evaluated, Formula, Probabilities, evaluated
from distillab.objectives.grouped import Links, slopes, sums
from distillab.objectives.term import StudentScores
from distillab.teachers.signals import scaled_logits


@dataclass(eq=False)
class _Reads:
    """What is read of one distribution: numbers that require a gradient, each with what leads from it to the logits."""

    student: Probabilities
    temperature: float
    some: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    distances: list[tuple[Tensor, Evaluated]] = field(default_factory=list)
    totals: list[Tensor] = field(default_factory=list)

    @property
    def ends(self) -> list[Tensor]:
        """The numbers that were read."""
        return [*self.totals, *(end for end, _ in (*self.some, *self.distances))]

    def scaled(self, given: Mapping[Tensor, Tensor]) -> list[tuple[Evaluated, Tensor]]:
        """Return the divergences that count, each with the factor (N, 1) of its slope."""
        return [
            (found, given[end][:, None] * (found.factor / self.temperature))
            for end, found in self.distances
            if end in given
        ]

    def gradient(self, given: Mapping[Tensor, Tensor], out: Tensor | None) -> Tensor:
        """Return (N, W) the gradient with respect to the logits.

        Args:
            given: the gradient with respect to each number that counts.
            out: memory for it, if that has as many numbers of the same kind.
        """
        q = self.student.prob
        fits = out is not None and (out.shape, out.dtype) == (q.shape, q.dtype)
        of_q = q.new_zeros(q.shape[0], 1)
        distances = self.scaled(given)
        for found, factor in distances:
            of_q -= found.sums() * factor
        for end in self.totals:
            if end in given:
                of_q += given[end][:, None] / self.temperature
        some = [(ids, given[end] / self.temperature) for end, ids in self.some if end in given]
        for _, at in some:
            of_q -= at.sum(dim=-1, keepdim=True)
        gradient = torch.mul(q, of_q, out=out if fits else None)
        for found, factor in distances:
            gradient.addcmul_(found.slope, factor)
        for ids, at in some:
            gradient.scatter_add_(1, ids, at)
        return gradient


@dataclass(frozen=True)
class _Carried:
    """Scores of outcomes, made of a tile's logits divided by the temperature; `shares` as `sums` gives them."""

    scores: TileScores
    links: Links
    shares: Tensor | None
    temperature: float

    def counts(self, given: Mapping[Tensor, Tensor]) -> bool:
        """Return whether anything that was read of it has a gradient."""
        return any(end in given for end in self.scores._ends())

    def gradient(self, given: Mapping[Tensor, Tensor], out: Tensor | None) -> Tensor:
        """Return (N, ids of the links) the gradient with respect to the tile's logits; `out`: as for `_Reads`."""
        found = slopes(self.scores._gradient(given, out), self.links, self.shares, overwrite=True)
        return found if self.temperature == 1.0 else found.div_(self.temperature)


@dataclass(frozen=True)
class TileScores(StudentScores):
    """The student's scores in a tile. Other reads than these are differentiated by torch.

    `_carried`: scores of outcomes that were made of these, with what leads back to these.
    """

    _reads: dict[tuple[int, float], _Reads] = field(default_factory=dict, repr=False, compare=False)
    _logits: list[tuple[Tensor, Tensor]] = field(default_factory=list, repr=False, compare=False)
    _carried: list[_Carried] = field(default_factory=list, repr=False, compare=False)

    def logp_at(self, ids_NK: Tensor, width: int, temperature: float) -> Tensor:
        """Return (N, K) log-probabilities of some ids."""
        reads = self._reads_of(width, temperature)
        logp_NK = reads.student.logp_at(ids_NK).requires_grad_()
        reads.some.append((logp_NK, ids_NK))
        return logp_NK

    def distance(self, formula: Formula, teacher: Probabilities, temperature: float) -> Tensor:
        """Return (N,) values of a divergence from the teacher's distribution, over as many ids as that has."""
        reads = self._reads_of(teacher.logits.shape[1], temperature)
        found = evaluated(formula, reads.student, teacher)
        reads.distances.append((found.value.requires_grad_(), found))
        return found.value

    def log_total(self, width: int, temperature: float) -> Tensor:
        """Return (N,) what the logits of the first `width` ids, divided by the temperature, exceed `logp` by."""
        reads = self._reads_of(width, temperature)
        reads.totals.append(reads.student.log_total[:, 0].clone().requires_grad_())
        return reads.totals[-1]

    def logits_at(self, ids_NK: Tensor) -> Tensor:
        """Return (N, K) logits of some ids."""
        self._logits.append((self.logits_NV.detach().gather(1, ids_NK).float().requires_grad_(), ids_NK))
        return self._logits[-1][0]

    def carried(self, links: Links, temperature: float) -> StudentScores:
        """Return the scores of the outcomes of `links`, at that temperature: it is 1 for what is read of them."""
        logits = scaled_logits(self.logits_NV.detach(), links.width, temperature)
        total, shares = sums(logits, links, shares=True)
        scores = TileScores(total.requires_grad_(), self.targets_N)
        self._carried.append(_Carried(scores, links, shares, temperature))
        return scores

    def _reads_of(self, width: int, temperature: float) -> _Reads:
        key = (width, temperature)
        if key not in self._reads:
            logits_NW = scaled_logits(self.logits_NV.detach(), width, temperature)
            self._reads[key] = _Reads(Probabilities(logits_NW), temperature)
        return self._reads[key]

    @torch.no_grad()
    def write_gradient(self, total: Tensor, leaf: Tensor, out: Tensor) -> Tensor | None:
        """Write the gradient of `total` with respect to `leaf` over `out`, but for a factor a row.

        Args:
            total: a scalar that was computed from what was read here.
            leaf: the product with the head, which the logits are computed from; `out` may be its own memory.
        Returns:
            (N, 1) the factors, or None: the gradient is complete.
        """
        if not total.requires_grad:  # all terms are span terms on other positions
            out.zero_()
            return None
        ends = self._ends()
        found: Sequence[Tensor | None] = torch.autograd.grad(total, ends, allow_unused=True)
        given = {end: gradient for end, gradient in zip(ends, found, strict=True) if gradient is not None}
        counting = self._counting(given)
        plain = self.logits_NV is leaf and self.logits_NV not in given and not self._logits and not self._carried
        if plain and out.dtype == torch.float32 and len(counting) == 1:
            (reads,) = counting
            if reads.student.prob.shape == out.shape:
                return self._write_alone(reads, given, out)
        gradient = self._gradient(given, out)
        if self.logits_NV is not leaf:
            (gradient,) = torch.autograd.grad(self.logits_NV, leaf, gradient.to(self.logits_NV.dtype))
        if gradient is not out:
            out.copy_(gradient)
        return None

    def _counting(self, given: Mapping[Tensor, Tensor]) -> list[_Reads]:
        return [reads for reads in self._reads.values() if any(end in given for end in reads.ends)]

    def _ends(self) -> list[Tensor]:
        """Return all that the gradient is computed from."""
        ends = [end for reads in self._reads.values() for end in reads.ends]
        ends += [self.logits_NV, *(end for end, _ in self._logits)]
        return ends + [end for carried in self._carried for end in carried.scores._ends()]

    def _gradient(self, given: Mapping[Tensor, Tensor], out: Tensor | None) -> Tensor:
        """Return (N, V) the gradient with respect to the logits; `out`: as for `_Reads`."""
        kind = torch.promote_types(self.logits_NV.dtype, torch.float32)
        parts: list[Tensor] = []
        carried = [of for of in self._carried if of.counts(given)]
        sources: list[_Reads | _Carried] = [*self._counting(given), *carried]
        for source in sources:
            parts.append(source.gradient(given, None if parts else out))
        if self.logits_NV in given:
            parts.append(given[self.logits_NV].to(kind))
        if parts and parts[0].shape == self.logits_NV.shape:
            gradient, *parts = parts
        else:
            gradient = torch.zeros_like(self.logits_NV, dtype=kind)
        for part in parts:
            gradient[:, : part.shape[1]] += part
        for end, ids in self._logits:
            if end in given:
                gradient.scatter_add_(1, ids, given[end].to(gradient.dtype))
        return gradient

    def _write_alone(self, reads: _Reads, given: Mapping[Tensor, Tensor], out: Tensor) -> Tensor | None:
        distances = reads.scaled(given)
        if len(distances) == 1 and sum(end in given for end in reads.ends) == 1:
            # one pass less: the caller can multiply rows of a narrower matrix
            ((found, factor),) = distances
            torch.addcmul(found.slope, reads.student.prob, found.sums(), value=-1.0, out=out)
            return factor
        reads.gradient(given, out)
        return None

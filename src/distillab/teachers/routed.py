"""Several teachers, each for its own rows.

Shape letters: B sequences, L positions, N scored positions of the batch, n some of them, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from distillab.data.collation import Collator, IndexedRow
from distillab.data.encoding import EncodedRow
from distillab.errors import TeacherError
from distillab.models.activations import Activations
from distillab.models.batch import TokenBatch
from distillab.models.projections import QKV
from distillab.models.scoring import placed
from distillab.teachers.composed import composed_identity
from distillab.teachers.protocol import SignalSource, TeacherIdentity, tokens_read
from distillab.teachers.routes import Routes, last_answer
from distillab.teachers.signals import ChunkedScores, DrawnTokens, NextTokens, SignalRequest, TeacherSignal, TopTokens
from distillab.teachers.stored.rows import Sample, samples


@dataclass(frozen=True)
class RoutedTokens:
    """The next tokens of several teachers at n positions, one teacher a position.

    Attributes:
        owner_n: (n,) which of the parts has each position.
        parts: each at its own positions, in their order.
    """

    owner_n: Tensor
    parts: Sequence[NextTokens]

    @property
    def positions(self) -> int:
        """n."""
        return self.owner_n.shape[0]

    @property
    def width(self) -> int:
        """Ids that all parts have."""
        return min(part.width for part in self.parts)

    def rows(self, here: slice) -> RoutedTokens:
        """Return the same at some of the positions."""
        owner_n, before = self.owner_n[here], self.owner_n[: here.start]
        parts = []
        for number, part in enumerate(self.parts):
            start = int((before == number).sum())
            parts.append(part.rows(slice(start, start + int((owner_n == number).sum()))))
        return RoutedTokens(owner_n, parts)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of all parts."""
        each = enumerate(self.parts, start=1)
        return {f"teacher {number}: {name}": t for number, part in each for name, t in part.tensors().items()}

    def logp(self, width: int, temperature: float) -> Tensor:
        """Return (n, width) float32 log-probabilities, those of each position's teacher."""
        return self._joined([part.logp(width, temperature) for part in self.parts])

    def top(self, k: int, width: int, temperature: float) -> TopTokens:
        """Return the k most likely ids of each position's teacher."""
        each = [part.top(k, width, temperature) for part in self.parts]
        return TopTokens(
            self._joined([top.ids for top in each]),
            self._joined([top.logp for top in each]),
            self._joined([top.tail_logmass for top in each]),
        )

    def actual(self, targets_n: Tensor, width: int, temperature: float) -> Tensor:
        """Return (n,) log-probabilities of the tokens that follow, by each position's teacher."""
        targets_n = targets_n.to(self.owner_n.device)
        each = enumerate(self.parts)
        return self._joined([part.actual(targets_n[self.owner_n == n], width, temperature) for n, part in each])

    def drawn(self, samples: int, width: int, temperature: float) -> DrawnTokens:
        """Return draws from the distribution of each position's teacher."""
        each = [part.drawn(samples, width, temperature) for part in self.parts]
        ids, entropy = [draws.ids for draws in each], [draws.entropy_estimate for draws in each]
        return DrawnTokens(self._joined(ids), self._joined(entropy))

    def _joined(self, each: Sequence[Tensor]) -> Tensor:
        joined = each[0].new_empty(self.positions, *each[0].shape[1:])
        for number, values in enumerate(each):
            joined[self.owner_n == number] = values
        return joined


@dataclass(frozen=True)
class RoutedScores:
    """The scores of several teachers at the N scored positions of a batch.

    Attributes:
        owner_N: (N,) which of the parts has each position.
        place_N: (N,) its place among that part's positions.
        parts: each at its own positions.
    """

    owner_N: Tensor
    place_N: Tensor
    parts: Sequence[ChunkedScores]

    @property
    def device(self) -> torch.device:
        """Of the first part's scores."""
        return self.parts[0].device

    def chunk(self, here: slice | Tensor, device: torch.device) -> RoutedTokens:
        """Return the next tokens at some of the positions; valid until the next call."""
        here = here.cpu() if isinstance(here, Tensor) else here
        owner_n, place_n = self.owner_N[here], self.place_N[here]
        parts = [part.chunk(place_n[owner_n == number], device) for number, part in enumerate(self.parts)]
        return RoutedTokens(owner_n.to(device), parts)


@dataclass(frozen=True, eq=False)
class RoutedTeacher:
    """A source that reads each row by its own teacher; a batch can hold rows of several.

    Args:
        parts: name -> source, each for its rows.
        routes: the name of each row's teacher.
        collator: pads the rows of one teacher.
        places: index of a row -> its index among its teacher's rows, by which a part tells rows with equal tokens
            apart.
    """

    parts: Mapping[str, SignalSource]
    routes: Routes[str]
    collator: Collator
    places: Mapping[int, int] = field(default_factory=dict)

    @property
    def identity(self) -> TeacherIdentity:
        """Of all parts together; its layers have a shape if they are equal in all."""
        return composed_identity({name: (None, part.identity) for name, part in self.parts.items()})

    def require(self, request: SignalRequest, *, packing: bool) -> None:
        """Check that every part gives what is requested; they read their rows one by one, so packing has no effect.

        Raises:
            TeacherError: attention maps are requested; or as the parts.
        """
        if request.activations.maps:
            raise TeacherError(
                "Attention maps are read of one teacher, and the run has several.",
                fix="use attention_relations, or one teacher",
            )
        for part in self.parts.values():
            part.require(request, packing=False)

    def signal(self, batch: TokenBatch, request: SignalRequest) -> TeacherSignal:
        """Return the signal of each row's teacher at the row's positions.

        Raises:
            TeacherError: a row is none of the run's.
        """
        found = samples(batch)
        shares = self._shares(found)
        signals = [self.parts[name].signal(self._batch(own), request) for name, own in shares.items()]
        numbers = {id(sample): number for number, own in enumerate(shares.values()) for sample in own}
        owners = [numbers[id(sample)] for sample in found]
        scores = [one.scores for one in signals if one.scores is not None]
        inside = [one.activations for one in signals if one.activations is not None]
        return TeacherSignal(
            scores=_routed_scores(scores, owners, [int(sample.answer_mask.sum()) for sample in found])
            if scores
            else None,
            activations=_routed_activations(inside, owners, [len(sample.input_ids) for sample in found], batch)
            if inside
            else None,
        )

    def tokens(self, batch: TokenBatch) -> int:
        """Count the tokens that the teachers read for a batch."""
        shares = self._shares(samples(batch))
        return sum(tokens_read(self.parts[name], self._batch(own)) for name, own in shares.items())

    def _shares(self, found: Sequence[Sample]) -> dict[str, list[Sample]]:
        """Return the samples of each teacher that has any, in their order."""
        shares: dict[str, list[Sample]] = {}
        for sample in found:
            shares.setdefault(self.routes.of_row(sample) or self.routes.of_prompt(sample), []).append(sample)
        return shares

    def _batch(self, own: Sequence[Sample]) -> TokenBatch:
        """Return samples as a batch, one a sequence."""
        rows = [EncodedRow(str(s.row), s.input_ids.astype(np.int32), s.answer_mask, last_answer(s)) for s in own]
        places = [self.places.get(s.row, s.row) for s in own]
        return self.collator([IndexedRow(place, row) for place, row in zip(places, rows, strict=True)])


def _routed_scores(scores: Sequence[ChunkedScores], owners: Sequence[int], scored: Sequence[int]) -> RoutedScores:
    """Return the scores of several teachers as one.

    Args:
        owners: of each sample, which of the scores has it.
        scored: scored positions of each sample.
    """
    owner_N = torch.tensor(owners).repeat_interleave(torch.tensor(scored))
    place_N = torch.zeros_like(owner_N)
    for number in range(len(scores)):
        place_N[owner_N == number] = torch.arange(int((owner_N == number).sum()))
    return RoutedScores(owner_N, place_N, scores)


def _routed_activations(
    each: Sequence[Activations], owners: Sequence[int], lengths: Sequence[int], batch: TokenBatch
) -> Activations:
    """Return the activations of several teachers as one, at the positions of a batch.

    Args:
        each: with one sample a sequence, from its first position on.
        owners, lengths: which of them has each sample of the batch, and its tokens.
    """

    def joined(tensors: Sequence[Tensor]) -> Tensor:
        left = [iter(states_BLD) for states_BLD in tensors]
        rows = [next(left[owner])[:length].to(tensors[0].device) for owner, length in zip(owners, lengths, strict=True)]
        return placed(torch.cat(rows), batch["attention_mask"].bool())

    def projections(block: int) -> QKV:
        of = [one.projections[block] for one in each]
        return QKV(joined([x.query for x in of]), joined([x.key for x in of]), joined([x.value for x in of]))

    return Activations(
        hidden={layer: joined([one.hidden[layer] for one in each]) for layer in each[0].hidden},
        projections={block: projections(block) for block in each[0].projections},
    )

"""What a teacher says of a batch, as rows of a cache.

Shape letters: N scored positions of the batch, n of one chunk or row; P positions at which states are stored; V the ids
that the head tells, W those that the distribution is over; K kept tokens; S draws; D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distillab.cache.identity import CacheIdentity
from distillab.cache.layout import Layout, SampledLayout, StatesLayout, TopKLayout
from distillab.cache.rows import CachedRow, Sampled, Section, States, TopK, row_digest
from distillab.cache.sections import positions_of, split
from distillab.data.collation import Collator, IndexedRow
from distillab.data.encoding import EncodedRow
from distillab.errors import ConfigError, NumericsError, TeacherError
from distillab.models.activations import Activations, ActivationSpec
from distillab.models.batch import TokenBatch
from distillab.models.chunking import chunks, sub_chunks
from distillab.models.heads import OutputHead
from distillab.models.scoring import at_scored, scored_targets
from distillab.teachers.arrays import as_array
from distillab.teachers.drawing import row_points
from distillab.teachers.protocol import SignalSource
from distillab.teachers.samples import Sample, samples
from distillab.teachers.signals import Distribution, FullLogits, HeadInputs, ScoreRequest, SignalRequest, TeacherSignal

_DTYPES = {"float32": torch.float32, "float16": torch.float16}


class SignalEncoder:
    """Asks a teacher once a batch for all kinds of a cache, and cuts the answer into rows.

    Args:
        teacher: any source.
        identity: says which kinds, how they are laid out, and the seed of the draws.
        collator: pads the rows of a batch.
    Raises:
        ConfigError: the identity asks for the teacher's answers: these are no signal on given rows.
    """

    def __init__(self, teacher: SignalSource, identity: CacheIdentity, collator: Collator) -> None:
        self._teacher, self._identity, self._collator = teacher, identity, collator
        self._layouts = identity.layouts
        if any(layout.kind == "text" for layout in self._layouts):
            raise ConfigError(
                "The teacher's answers are no signal on given rows.",
                facts=[f"kinds: {', '.join(layout.kind for layout in self._layouts)}"],
                fix="build kind text by itself",
            )
        self._request = _request(self._layouts, identity.width)
        self.head: OutputHead | None = None

    def rows(self, rows: Sequence[EncodedRow]) -> list[CachedRow]:
        """One batch: the given rows with everything that the identity names.

        `head` is the teacher's from here on, where distributions are stored.

        Raises:
            NumericsError: the teacher's numbers are not finite; the message names the row.
            TeacherError: the teacher's tensors are not of the dtype that the identity says.
        """
        batch = self._collator([IndexedRow(index, row) for index, row in enumerate(rows)])
        signal = self._teacher.signal(batch, self._request)
        return self.cut(batch, signal, rows)

    @torch.no_grad()
    def cut(self, batch: TokenBatch, signal: TeacherSignal, rows: Sequence[EncodedRow]) -> list[CachedRow]:
        """The rows of a batch, from what the teacher said of it; `batch["rows"]` counts through `rows`."""
        found = samples(batch)
        cut = _BatchSplitter(found, [rows[sample.row].key for sample in found])
        sections: dict[str, list[Section]] = {}
        if isinstance(signal.scores, HeadInputs):
            self.head = signal.scores.head
            sections |= self._token_sections(cut, batch, signal.scores)
        for layout in self._layouts:
            if isinstance(layout, StatesLayout):
                arrays = {
                    array.name: cut.checked(_states(array.name, layout, batch, signal), array.name, array.store, layout)
                    for array in layout.arrays
                }
                sections[layout.kind] = split(States(arrays), cut.lengths(layout))
        made: dict[int, CachedRow] = {}
        for place, sample in enumerate(found):
            row = rows[sample.row]
            of_row: dict[str, Section] = {layout.kind: sections[layout.kind][place] for layout in self._layouts}
            made[sample.row] = CachedRow(row.key, row.input_ids, row.answer_mask, of_row)
        return [made[index] for index in range(len(rows))]

    def _token_sections(self, cut: _BatchSplitter, batch: TokenBatch, scores: HeadInputs) -> dict[str, list[Section]]:
        """top_k and sampled, chunk by chunk, so that nothing of size N × V is alive."""
        layouts = [layout for layout in self._layouts if isinstance(layout, TopKLayout | SampledLayout)]
        if not layouts:
            return {}
        device, targets_N = scores.hidden_ND.device, scored_targets(batch)
        draws = [layout.draws for layout in layouts if isinstance(layout, SampledLayout)]
        points_NS = cut.points(self._identity.seed, draws[0]) if draws else None
        parts: dict[str, list[Any]] = {layout.kind: [] for layout in layouts}
        vocabulary = scores.head.weight_VD.shape[0]
        for chunk_at in chunks(len(targets_N), vocabulary, device):
            chunk = scores.chunk(chunk_at, device)
            for sub_at in sub_chunks(chunk.positions, vocabulary, device):
                here = slice(chunk_at.start + sub_at.start, chunk_at.start + sub_at.stop)
                piece = chunk.rows(sub_at)
                for layout in layouts:
                    parts[layout.kind].append(self._piece(piece, layout, targets_N[here], points_NS, here))
        sections: dict[str, list[Section]] = {}
        for layout in layouts:
            columns = [torch.cat(column).cpu() for column in zip(*parts[layout.kind], strict=True)]
            made = _top_k(cut, columns) if isinstance(layout, TopKLayout) else _sampled(cut, columns)
            sections[layout.kind] = split(made, cut.lengths(layout))
        return sections

    def _piece(
        self,
        piece: FullLogits,
        layout: TopKLayout | SampledLayout,
        targets_n: Tensor,
        points_NS: Tensor | None,
        here: slice,
    ) -> tuple[Tensor, ...]:
        """The columns of a kind at a few positions."""
        width, temperature = self._identity.width, layout.temperature
        if isinstance(layout, TopKLayout):
            top = piece.top(layout.k, width, temperature)
            logp_nW = piece.logp(width, temperature)
            return top.ids, top.logp, top.tail_logmass, _actual(logp_nW, targets_n.to(logp_nW.device))
        assert points_NS is not None
        drawn = piece.drawn(layout.draws, width, temperature, points=points_NS[here])
        return drawn.ids, drawn.entropy_estimate


class _BatchSplitter:
    """The samples of a batch, and their rows' keys, for cutting and for messages."""

    def __init__(self, found: Sequence[Sample], keys: Sequence[str]) -> None:
        self.found, self.keys = found, keys
        self.scored = [int(sample.answer_mask.sum()) for sample in found]

    def lengths(self, layout: Layout) -> list[int]:
        """Positions of every sample."""
        return [
            positions_of(layout, tokens=len(sample.input_ids), scored=scored)
            for sample, scored in zip(self.found, self.scored, strict=True)
        ]

    def points(self, seed: int, draws: int) -> Tensor:
        """(N, draws) the uniform numbers by which each sample's tokens are drawn, whatever it stands beside."""
        digests = [row_digest(sample.input_ids, sample.answer_mask) for sample in self.found]
        return torch.cat(
            [row_points(digest, scored, draws, seed=seed) for digest, scored in zip(digests, self.scored, strict=True)]
        )

    def checked(self, states_PD: Tensor, name: str, store: str, layout: StatesLayout) -> npt.NDArray[np.generic]:
        """(P, D) as it is stored, finite."""
        if store == "bfloat16":
            states_PD = states_PD.to(torch.bfloat16)
        elif store == "int8":
            states_PD = states_PD.float()
        elif states_PD.dtype != _DTYPES[store]:
            raise TeacherError(
                "A tensor of the teacher is of another dtype than the cache says.",
                where=name,
                facts=[f"the teacher's: {states_PD.dtype}", f"the cache: {store}"],
                fix="store: bfloat16",
            )
        if not bool(torch.isfinite(states_PD).all()):
            self.refuse(name, torch.isfinite(states_PD).all(dim=-1).cpu(), self.lengths(layout))
        return as_array(states_PD)

    def refuse(self, name: str, good_P: Tensor, lengths: Sequence[int]) -> None:
        """Raise for the first row that has a position which is not good."""
        for key, good in zip(self.keys, good_P.split(list(lengths)), strict=True):
            if not bool(good.all()):
                raise NumericsError(
                    "The teacher's numbers are not finite, so nothing of this shard was written.",
                    where=f"row with key {key}",
                    facts=[f"tensor: {name}", f"{int((~good).sum())} of {len(good)} positions of the row"],
                    fix="look at the row, or load the teacher in float32 (teacher: {dtype: float32})",
                )


def _request(layouts: Sequence[Layout], width: int) -> SignalRequest:
    """All kinds in one question."""
    names = [array.name for layout in layouts if isinstance(layout, StatesLayout) for array in layout.arrays]
    parts = [name.split(".") for name in names]
    reads_scores = any(layout.kind in ("top_k", "sampled", "full") for layout in layouts)
    scores: frozenset[ScoreRequest] = frozenset({Distribution(width)} if reads_scores else ())
    return SignalRequest(
        scores=scores,
        activations=ActivationSpec(
            hidden=frozenset(int(part[1]) for part in parts if part[0] == "layer"),
            projections=frozenset(int(part[1]) for part in parts if part[0] == "block"),
        ),
    )


def _states(name: str, layout: StatesLayout, batch: TokenBatch, signal: TeacherSignal) -> Tensor:
    """(P, D) one tensor at the positions of its layout, in the order of the samples."""
    activations = signal.activations or Activations()
    match name.split("."):
        case ["layer", number]:
            states_BLD = activations.hidden[int(number)]
        case ["block", number, part]:
            states_BLD = getattr(activations.projections[int(number)], part)
        case _:
            assert isinstance(signal.scores, HeadInputs)
            return signal.scores.hidden_ND
    if layout.positions == "answer":
        return at_scored(states_BLD, batch)
    return states_BLD[batch["attention_mask"].bool().to(states_BLD.device)]


def _actual(logp_nW: Tensor, targets_n: Tensor) -> Tensor:
    """(n,) the log-probability of the token that follows; −inf where the distribution does not know it."""
    width = logp_nW.shape[1]
    logp_n = logp_nW.gather(1, targets_n.clamp(max=width - 1)[:, None])[:, 0]
    return logp_n.masked_fill(targets_n >= width, -torch.inf)


def _top_k(cut: _BatchSplitter, columns: Sequence[Tensor]) -> TopK:
    ids_NK, logp_NK, tail_N, actual_N = columns
    bad_N = logp_NK.isnan().any(dim=-1)
    if bool(bad_N.any()):
        cut.refuse("log-probabilities", ~bad_N, cut.scored)
    return TopK(ids_NK.to(torch.int32).numpy(), logp_NK.numpy(), tail_N.numpy(), actual_N.numpy())


def _sampled(cut: _BatchSplitter, columns: Sequence[Tensor]) -> Sampled:
    ids_NS, own_nats_N = columns
    good_N = own_nats_N.isfinite()
    if not bool(good_N.all()):
        cut.refuse("log-probabilities", good_N, cut.scored)
    return counted(ids_NS.numpy(), own_nats_N.numpy())


def counted(ids_NS: npt.NDArray[np.int64], own_nats_N: npt.NDArray[np.float32]) -> Sampled:
    """Draws as their distinct ids, ascending within a position, with counts."""
    sorted_NS = np.sort(ids_NS.astype(np.int32), axis=1)
    first_NS = np.ones(sorted_NS.shape, np.bool_)
    first_NS[:, 1:] = sorted_NS[:, 1:] != sorted_NS[:, :-1]
    # every position begins with a first one, so runs never cross positions
    starts_M = np.flatnonzero(first_NS)
    counts_M = np.diff(starts_M, append=sorted_NS.size)
    return Sampled(
        distinct=first_NS.sum(axis=1, dtype=np.int32),
        ids=sorted_NS.reshape(-1)[starts_M],
        counts=counts_M.astype(np.int32),
        entropy_estimate=own_nats_N,
    )

"""Record next-token distributions: the kinds `top_k` and `sampled`.

Shape letters: N scored positions, n some of them, K kept tokens, S draws, W ids that the distribution is over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distillab.cache.bits import bits_for
from distillab.cache.kinds import Layout
from distillab.cache.next_tokens import Sampled, SampledLayout, TopK, TopKLayout
from distillab.config.cache import SampledKind, TopKKind
from distillab.divergences.sampled import sampled_cross_entropy
from distillab.errors import ConfigError
from distillab.models.chunking import chunks, sub_chunks
from distillab.records import AccessLevel
from distillab.teachers.drawing import draw
from distillab.teachers.signals import (
    Distribution,
    NextTokens,
    ScoreRequest,
    SignalRequest,
    Top,
)
from distillab.teachers.stored.arrays import as_tensor
from distillab.teachers.stored.kind import RecordedBatch, Sizes, StoredKind

_HALF, _BYTE = 2e-2, 0.15  # relative errors of a term's value


class StoredTopK(StoredKind[TopKKind, TopKLayout, TopK]):
    """The k most likely tokens of each position, and the mass of all others."""

    access: ClassVar[AccessLevel] = "top_k"
    fixes_width: ClassVar[bool] = True

    def layout(self, settings: TopKKind, sizes: Sizes) -> TopKLayout:
        """See `StoredKind`."""
        if settings.k > sizes.width:
            raise ConfigError(
                "A teacher has no more tokens than its distribution.",
                facts=[f"k {settings.k}", f"width {sizes.width}"],
                where="kind top_k",
                fix="a smaller k, or kind full, which holds all of them",
            )
        id_bits = bits_for(sizes.width)
        return TopKLayout(k=settings.k, id_bits=id_bits, values=settings.values, temperature=settings.temperature)

    def request(self, layout: TopKLayout, width: int) -> SignalRequest:
        """See `StoredKind`."""
        return SignalRequest(scores=frozenset({Top(layout.k, width, layout.temperature)}))

    def columns(self, layout: TopKLayout, tokens: NextTokens, batch: RecordedBatch, here: slice) -> tuple[Tensor, ...]:
        """Return ids, logp (n, K), tail and actual log-probability (n,) at some positions."""
        top = tokens.top(layout.k, batch.width, layout.temperature)
        actual_n = tokens.actual(batch.targets_N[here], batch.width, layout.temperature)
        return top.ids, top.logp, top.tail_logmass, actual_n

    def section(self, columns: Sequence[Tensor], layout: TopKLayout, batch: RecordedBatch) -> TopK:
        """Return the columns of all positions as they are stored.

        Raises:
            NumericsError: a log-probability is NaN.
        """
        ids_NK, logp_NK, tail_N, actual_N = columns
        batch.require_finite("log-probabilities", ~logp_NK.isnan().any(dim=-1), layout)
        return TopK(ids_NK.to(torch.int32).numpy(), logp_NK.numpy(), tail_N.numpy(), actual_N.numpy())

    def tensors(self, section: TopK) -> dict[str, Tensor]:
        """See `StoredKind`."""
        return {
            "top_k_ids": as_tensor(section.ids).long(),
            "top_k_logp": as_tensor(section.logp),
            "top_k_tail": as_tensor(section.tail_logmass),
            "actual_logp": as_tensor(section.actual_logp),
        }

    def relative_error(self, settings: TopKKind) -> float:
        """See `StoredKind`: all tokens but the k are one outcome; a term that reads fewer loses only by rounding."""
        return _HALF if settings.values == "float16" else _BYTE


class StoredSampled(StoredKind[SampledKind, SampledLayout, Sampled]):
    """Tokens drawn from the teacher's distribution."""

    access: ClassVar[AccessLevel] = "logits"
    fixes_width: ClassVar[bool] = True

    def layout(self, settings: SampledKind, sizes: Sizes) -> SampledLayout:
        """See `StoredKind`."""
        return SampledLayout(
            draws=settings.draws,
            id_bits=bits_for(sizes.width),
            count_bits=bits_for(settings.draws),
            temperature=settings.temperature,
        )

    def request(self, layout: SampledLayout, width: int) -> SignalRequest:
        """See `StoredKind`: the cache's own seed draws, so the source gives the distribution."""
        return SignalRequest(scores=frozenset({Distribution(width, layout.temperature)}))

    def columns(
        self, layout: SampledLayout, tokens: NextTokens, batch: RecordedBatch, here: slice
    ) -> tuple[Tensor, ...]:
        """Return ids (n, S) and their mean negative log-probability (n,) at some positions."""
        logp_nW = tokens.logp(batch.width, layout.temperature)
        ids_nS = draw(logp_nW, layout.draws, points=batch.points(layout.draws)[here])
        return ids_nS, sampled_cross_entropy(student_logp=logp_nW, drawn_ids=ids_nS)

    def section(self, columns: Sequence[Tensor], layout: SampledLayout, batch: RecordedBatch) -> Sampled:
        """Return the columns of all positions as they are stored.

        Raises:
            NumericsError: a log-probability is not finite.
        """
        ids_NS, entropy_N = columns
        batch.require_finite("log-probabilities", entropy_N.isfinite(), layout)
        return counted(ids_NS.numpy(), entropy_N.numpy())

    def tensors(self, section: Sampled) -> dict[str, Tensor]:
        """See `StoredKind`."""
        return {
            "sampled_ids": as_tensor(section.drawn()).long(),
            "sampled_own_nats": as_tensor(section.entropy_estimate),
        }

    def relative_error(self, settings: SampledKind) -> float:
        """See `StoredKind`: none, the draws' own error aside."""
        return 0.0


KINDS: dict[str, StoredKind[Any, Any, Any]] = {"top_k": StoredTopK(), "sampled": StoredSampled()}


def encode_next_tokens(
    layouts: Sequence[Layout], batch: RecordedBatch, *, vocabulary: int
) -> dict[str, TopK | Sampled]:
    """Return kind -> section of those layouts that hold next tokens, chunk by chunk: nothing of N × W is in memory.

    Args:
        vocabulary: ids of the source's head, by which chunks are cut.
    """
    kinds: list[tuple[Any, Layout]] = [(KINDS[layout.kind], layout) for layout in layouts if layout.kind in KINDS]
    scores = batch.signal.scores
    if not kinds or scores is None:
        return {}
    device = scores.device
    parts: dict[str, list[tuple[Tensor, ...]]] = {layout.kind: [] for _, layout in kinds}
    for chunk_at in chunks(len(batch.targets_N), vocabulary, device):
        chunk = scores.chunk(chunk_at, device)
        for sub_at in sub_chunks(chunk.positions, vocabulary, device):
            here = slice(chunk_at.start + sub_at.start, chunk_at.start + sub_at.stop)
            tokens = chunk.rows(sub_at)
            for kind, layout in kinds:
                parts[layout.kind].append(kind.columns(layout, tokens, batch, here))
    return {
        layout.kind: kind.section(
            [torch.cat(column).cpu() for column in zip(*parts[layout.kind], strict=True)], layout, batch
        )
        for kind, layout in kinds
    }


def counted(ids_NS: npt.NDArray[np.int64], entropy_N: npt.NDArray[np.float32]) -> Sampled:
    """Return draws as their distinct ids, ascending within a position, with counts."""
    sorted_NS = np.sort(ids_NS.astype(np.int32), axis=1)
    first_NS = np.ones(sorted_NS.shape, np.bool_)
    first_NS[:, 1:] = sorted_NS[:, 1:] != sorted_NS[:, :-1]
    # every position begins a new run, so runs never cross positions
    starts_M = np.flatnonzero(first_NS)
    return Sampled(
        distinct=first_NS.sum(axis=1, dtype=np.int32),
        ids=sorted_NS.reshape(-1)[starts_M],
        counts=np.diff(starts_M, append=sorted_NS.size).astype(np.int32),
        entropy_estimate=entropy_N,
    )


def kind_for(scores: frozenset[ScoreRequest]) -> TopKKind | None:
    """Return the kind that holds all of these alone, at two bytes a log-probability; None: they need more."""
    tops = [need for need in scores if isinstance(need, Top)]
    if len(tops) == len(scores) and len({need.temperature for need in tops}) == 1:
        return TopKKind(k=max(need.k for need in tops), temperature=tops[0].temperature, values="float16")
    return None

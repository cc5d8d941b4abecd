"""One kind of stored signal, and the batch that it is encoded from.

Shape letters: N scored positions of the batch, S draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from distillab.cache.kinds import Layout
from distillab.cache.layout import RecordLayout, Section
from distillab.cache.rows import row_digest
from distillab.config.cache import KindConfig
from distillab.errors import NumericsError
from distillab.models.batch import TokenBatch
from distillab.models.scoring import scored_targets
from distillab.models.structure import ModelShape
from distillab.records import AccessLevel
from distillab.teachers.drawing import row_points
from distillab.teachers.signals import SignalRequest, TeacherSignal
from distillab.teachers.stored.rows import Sample, samples

C = TypeVar("C", bound=KindConfig)
L = TypeVar("L", bound=Layout)
S = TypeVar("S", bound=Section)


@dataclass(frozen=True)
class Sizes:
    """Sizes of a teacher that a layout needs.

    Attributes:
        shape: of its layers.
        dtype: of its activations, as "bfloat16"; in which `exact` ones are stored.
        width: its distribution is over the ids 0 … width - 1.
        head_inputs: numbers that its head reads a position; 0 if it gives no head.
    """

    shape: ModelShape
    dtype: str
    width: int
    head_inputs: int


class StoredKind(Generic[C, L, S]):
    """Base of the kinds: the layout, the request to a source, and the tensors in a data set.

    Attributes:
        access: the access level of a cache of this kind.
        fixes_width: whether it can only be read at the width at which it was recorded.
    """

    access: ClassVar[AccessLevel]
    fixes_width: ClassVar[bool] = False

    def layout(self, settings: C, sizes: Sizes) -> L:
        """Return the layout for a teacher.

        Raises:
            ConfigError: the settings do not fit the teacher.
        """
        raise NotImplementedError

    def request(self, layout: L, width: int) -> SignalRequest:
        """Return the request to the source that is recorded."""
        raise NotImplementedError

    def tensors(self, section: S) -> dict[str, Tensor]:
        """Return the tensors of one row, by their names in a data set."""
        raise NotImplementedError

    def relative_error(self, settings: C) -> float:
        """Return how far, relatively, a term's value from the cache can be off (docs/performance.md)."""
        raise NotImplementedError


class RecordedBatch:
    """The samples of a batch with the teacher's signal.

    Args:
        batch: `batch["rows"]` counts through `keys`.
        keys: of the rows, for messages.
        seed: of draws.
    """

    def __init__(self, batch: TokenBatch, signal: TeacherSignal, keys: Sequence[str], *, width: int, seed: int) -> None:
        self.batch, self.signal, self.width = batch, signal, width
        self.samples: list[Sample] = samples(batch)
        self._keys, self._seed = [keys[sample.row] for sample in self.samples], seed
        self._points: dict[int, Tensor] = {}

    @cached_property
    def targets_N(self) -> Tensor:
        """The tokens that follow."""
        return scored_targets(self.batch)

    def lengths(self, layout: RecordLayout) -> list[int]:
        """Return the positions of every sample."""
        return [
            layout.positions_of(tokens=len(sample.input_ids), scored=int(sample.answer_mask.sum()))
            for sample in self.samples
        ]

    def points(self, draws: int) -> Tensor:
        """Return (N, draws) uniform numbers by which tokens are drawn: a sample's do not depend on its batch."""
        if draws not in self._points:
            self._points[draws] = torch.cat(
                [
                    row_points(
                        row_digest(sample.input_ids, sample.answer_mask),
                        int(sample.answer_mask.sum()),
                        draws,
                        seed=self._seed,
                    )
                    for sample in self.samples
                ]
            )
        return self._points[draws]

    def require_finite(self, name: str, good_P: Tensor, layout: RecordLayout) -> None:
        """Raise NumericsError for the first row that has a position which is not good."""
        if bool(good_P.all()):
            return
        for key, good in zip(self._keys, good_P.cpu().split(self.lengths(layout)), strict=True):
            if not bool(good.all()):
                raise NumericsError(
                    "The teacher's numbers are not finite, so nothing of this shard was written.",
                    where=f"row with key {key}",
                    facts=[f"tensor: {name}", f"{int((~good).sum())} of {len(good)} positions of the row"],
                    fix="check the row, or load the teacher in float32 (teacher: {dtype: float32})",
                )

"""Inner states of a recorded teacher, put back at their places in a batch.

Shape letters: B sequences, L positions, P positions at which states are stored, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distillab.cache.layout import StatesLayout
from distillab.cache.reader import CacheReader
from distillab.cache.rows import States
from distillab.errors import TeacherError
from distillab.models.activations import Activations
from distillab.models.batch import TokenBatch
from distillab.models.projections import QKV
from distillab.models.scoring import scored_positions
from distillab.teachers.arrays import as_tensor
from distillab.teachers.signals import SignalRequest

_KINDS = ("hidden_states", "attention_inputs")


class CachedActivations:
    """The kinds hidden_states and attention_inputs of a cache.

    Args:
        reader: of the cache.
        device: where the tensors go.
    """

    def __init__(self, reader: CacheReader, device: torch.device) -> None:
        self._reader, self._device = reader, device
        self._layouts: dict[str, StatesLayout] = {
            layout.kind: layout
            for layout in reader.identity.layouts
            if isinstance(layout, StatesLayout) and layout.kind in _KINDS
        }
        self._held = {array.name for layout in self._layouts.values() for array in layout.arrays}

    def require(self, request: SignalRequest) -> None:
        """Check that all inner states that are asked for are stored.

        Raises:
            TeacherError: they are not; the message says what to build.
        """
        if request.activations.maps:
            raise TeacherError(
                "Attention maps cannot be read from a cache: they grow with the square of a row.",
                where=self._reader.location,
                fix="read the teacher itself (teacher: {path: …}), or use attention_relations",
            )
        layers = sorted(n for n in request.activations.hidden if f"layer.{n}" not in self._held)
        if layers:
            self._refuse(f"hidden states of the layers {layers}", f"{{kind: hidden_states, layers: {layers}}}")
        blocks = sorted(n for n in request.activations.projections if f"block.{n}.query" not in self._held)
        if blocks:
            self._refuse(f"attention inputs of the blocks {blocks}", f"{{kind: attention_inputs, blocks: {blocks}}}")
        everywhere = request.hidden_at != {"answer"}
        if request.activations.hidden and everywhere and self._layouts["hidden_states"].positions == "answer":
            self._refuse(
                "hidden states at all positions",
                f"{{kind: hidden_states, positions: all, layers: {sorted(request.activations.hidden)}}}",
            )

    def captured(self, rows: Sequence[int], batch: TokenBatch, request: SignalRequest) -> Activations:
        """(B, L, D) tensors as a model gives them, zero where nothing is stored.

        Args:
            rows: the stored row of every sample of the batch, in their order.
        """
        found = Activations()
        if request.activations.hidden:
            placed = self._placed(rows, batch, "hidden_states")
            found.hidden = {number: placed[f"layer.{number}"] for number in request.activations.hidden}
        if request.activations.projections:
            placed = self._placed(rows, batch, "attention_inputs")
            for number in request.activations.projections:
                query, key, value = (placed[f"block.{number}.{part}"] for part in ("query", "key", "value"))
                found.projections[number] = QKV(query, key, value)
        return found

    def _placed(self, rows: Sequence[int], batch: TokenBatch, kind: str) -> dict[str, Tensor]:
        section = self._reader.read_flat(rows, kind)
        assert isinstance(section, States)
        if self._layouts[kind].positions == "all":
            at_BL = batch["attention_mask"].bool().to(self._device)
        else:
            at_BL = torch.nn.functional.pad(scored_positions(batch), (0, 1)).to(self._device)
        placed = {}
        for name, array in section.arrays.items():
            states_PD = as_tensor(array, self._device)
            placed[name] = states_PD.new_zeros(*at_BL.shape, states_PD.shape[1])
            placed[name][at_BL] = states_PD
        return placed

    def _refuse(self, needed: str, kind: str) -> None:
        stored = [
            f"{', '.join(array.name for array in layout.arrays)} at positions: {layout.positions}"
            for layout in self._layouts.values()
        ]
        raise TeacherError(
            "The cache does not hold what a term reads of the teacher.",
            where=self._reader.location,
            facts=[f"needed: {needed}", *(f"stored: {text}" for text in stored or ["no inner states"])],
            fix=f"build a cache that has it: `distillab cache build` with cache: {{kinds: [{kind}]}}, or read the "
            "teacher itself: teacher: {path: …}",
        )

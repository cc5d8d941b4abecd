"""Record and replay activations: the kinds `hidden_states`, `attention_inputs` and `full` (the head's input).

Shape letters: B sequences, L positions, N scored positions, P stored positions, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distillab.cache.activations import StateArray, States, StatesLayout
from distillab.cache.head import StoredHead
from distillab.cache.kinds import Layout
from distillab.cache.reader import CacheReader
from distillab.config.cache import AttentionInputsKind, FullKind, HiddenStatesKind, KindConfig, StateStore
from distillab.config.layer_terms import Positions
from distillab.errors import ConfigError, TeacherError
from distillab.models.activations import Activations, ActivationSpec
from distillab.models.batch import TokenBatch
from distillab.models.heads import OutputHead
from distillab.models.projections import QKV
from distillab.models.scoring import at_scored, placed, predicting_positions
from distillab.records import AccessLevel
from distillab.teachers.signals import Distribution, HeadInputs, SignalRequest
from distillab.teachers.stored.arrays import as_array, as_tensor
from distillab.teachers.stored.kind import RecordedBatch, Sizes, StoredKind

_DTYPES = {"float32": torch.float32, "float16": torch.float16}
_ERRORS = {"exact": 2e-3, "bfloat16": 2e-2, "int8": 0.15}  # relative errors of a term's value
_PARTS = ("query", "key", "value")

C = TypeVar("C", FullKind, HiddenStatesKind, AttentionInputsKind)


class StoredActivations(StoredKind[C, StatesLayout, States]):
    """Tensors of the teacher, one a layer or block and part."""

    access: ClassVar[AccessLevel] = "internals"

    def request(self, layout: StatesLayout, width: int) -> SignalRequest:
        """See `StoredKind`."""
        parts = [array.name.split(".") for array in layout.arrays]
        hidden = frozenset(int(part[1]) for part in parts if part[0] == "layer")
        blocks = frozenset(int(part[1]) for part in parts if part[0] == "block")
        return SignalRequest(activations=ActivationSpec(hidden=hidden, projections=blocks))

    def states(self, name: str, layout: StatesLayout, batch: RecordedBatch) -> Tensor:
        """Return (P, D) one tensor at the positions of its layout, in the order of the samples."""
        found = batch.signal.activations or Activations()
        match name.split("."):
            case ["block", number, part]:
                states_BLD = getattr(found.projections[int(number)], part)
            case _:
                states_BLD = found.hidden[int(name.removeprefix("layer."))]
        if layout.positions == "answer":
            return at_scored(states_BLD, batch.batch)
        return states_BLD[batch.batch["attention_mask"].bool().to(states_BLD.device)]

    def section(self, layout: StatesLayout, batch: RecordedBatch) -> States:
        """Return all tensors as they are stored.

        Raises:
            NumericsError: a number is not finite.
            TeacherError: a tensor has another dtype than the layout, or the source gives no head.
        """
        arrays: dict[str, npt.NDArray[np.generic]] = {}
        for array in layout.arrays:
            states_PD = _as_stored(self.states(array.name, layout, batch), array)
            batch.require_finite(array.name, torch.isfinite(states_PD).all(dim=-1), layout)
            arrays[array.name] = as_array(states_PD)
        return States(arrays)

    def tensors(self, section: States) -> dict[str, Tensor]:
        """See `StoredKind`."""
        return {name.replace("layer.", "hidden."): as_tensor(array) for name, array in section.arrays.items()}

    def relative_error(self, settings: C) -> float:
        """See `StoredKind`."""
        return _ERRORS[settings.store]


class StoredHiddenStates(StoredActivations[HiddenStatesKind]):
    """Hidden states of chosen layers."""

    def layout(self, settings: HiddenStatesKind, sizes: Sizes) -> StatesLayout:
        """See `StoredKind`."""
        _require_numbers("layers", settings.layers, range(sizes.shape.blocks + 1), kind=settings.kind)
        widths = ((f"layer.{number}", sizes.shape.width) for number in settings.layers)
        return _layout(settings, settings.positions, widths, sizes.dtype)


class StoredAttentionInputs(StoredActivations[AttentionInputsKind]):
    """Queries, keys and values of chosen blocks."""

    def layout(self, settings: AttentionInputsKind, sizes: Sizes) -> StatesLayout:
        """See `StoredKind`."""
        shape = sizes.shape
        _require_numbers("blocks", settings.blocks, range(1, shape.blocks + 1), kind=settings.kind)
        heads = {"query": shape.heads, "key": shape.key_value_heads, "value": shape.key_value_heads}
        widths = (
            (f"block.{number}.{part}", heads[part] * shape.head_width) for number in settings.blocks for part in _PARTS
        )
        return _layout(settings, "all", widths, sizes.dtype)


class StoredHeadInputs(StoredActivations[FullKind]):
    """The head's inputs, from which the whole distribution is computed; the head is stored once, beside the rows."""

    access: ClassVar[AccessLevel] = "logits"

    def layout(self, settings: FullKind, sizes: Sizes) -> StatesLayout:
        """See `StoredKind`."""
        if not sizes.head_inputs:
            raise _no_head()
        return _layout(settings, "answer", [("head_input", sizes.head_inputs)], sizes.dtype)

    def request(self, layout: StatesLayout, width: int) -> SignalRequest:
        """See `StoredKind`."""
        return SignalRequest(scores=frozenset({Distribution(width)}))

    def states(self, name: str, layout: StatesLayout, batch: RecordedBatch) -> Tensor:
        """Return (N, D) the last hidden states at the scored positions."""
        if not isinstance(batch.signal.scores, HeadInputs):
            raise _no_head()
        return batch.signal.scores.hidden_ND


KINDS: dict[str, StoredActivations[Any]] = {
    "full": StoredHeadInputs(),
    "hidden_states": StoredHiddenStates(),
    "attention_inputs": StoredAttentionInputs(),
}
WHOLE_DISTRIBUTIONS = (FullKind(store="exact"),)
"""The kinds that support every term and metric that reads distributions."""


def kinds_for(request: SignalRequest) -> list[KindConfig]:
    """Return the kinds that hold the activations of a request, each in the teacher's own dtype."""
    kinds: list[KindConfig] = []
    spec = request.activations
    if spec.hidden:
        positions: Positions = "answer" if request.hidden_at == {"answer"} else "all"
        kinds.append(HiddenStatesKind(layers=tuple(sorted(spec.hidden)), positions=positions, store="exact"))
    if spec.projections:
        kinds.append(AttentionInputsKind(blocks=tuple(sorted(spec.projections)), store="exact"))
    return kinds


def stored_head(head: OutputHead) -> StoredHead:
    """Return a head as it is stored."""
    bias = None if head.bias_V is None else as_array(head.bias_V)
    return StoredHead(as_array(head.weight_VD), bias, head.multiplier, head.cap)


def read_head(reader: CacheReader, device: torch.device) -> OutputHead:
    """Return the head of a cache of kind full.

    Raises:
        CacheCorrupt: it is missing or damaged.
    """
    stored = reader.head()
    bias_V = None if stored.bias is None else as_tensor(stored.bias, device)
    return OutputHead(as_tensor(stored.weight, device), bias_V, stored.multiplier, stored.cap)


def read_head_inputs(reader: CacheReader, rows: Sequence[int], head: OutputHead) -> HeadInputs:
    """Return what the head reads of some rows (kind full), on the head's device."""
    section = reader.read_flat(rows, "full")
    assert isinstance(section, States)
    hidden_ND = as_tensor(section.arrays["head_input"], head.weight_VD.device)
    return HeadInputs(hidden_ND.to(head.weight_VD.dtype), head)


class CachedActivations:
    """The hidden states and attention inputs of a cache, put back at their places in a batch.

    Args:
        reader: of the cache.
        device: where the tensors go.
    """

    def __init__(self, reader: CacheReader, device: torch.device) -> None:
        self._reader, self._device = reader, device
        self._layouts: dict[str, StatesLayout] = {
            layout.kind: layout
            for layout in reader.identity.layouts
            if isinstance(layout, StatesLayout) and not layout.stores_head
        }
        self._held = {array.name for layout in self._layouts.values() for array in layout.arrays}

    def require(self, request: SignalRequest) -> None:
        """Check that all requested activations are stored.

        Raises:
            TeacherError: they are not; the message names the cache to build.
        """
        spec = request.activations
        if spec.maps:
            raise TeacherError(
                "Attention maps cannot be read from a cache: they grow with the square of a row.",
                where=self._reader.location,
                fix="read the teacher itself (teacher: {path: …}), or use attention_relations",
            )
        layers = sorted(n for n in spec.hidden if f"layer.{n}" not in self._held)
        if layers:
            self._refuse(f"hidden states of the layers {layers}", f"{{kind: hidden_states, layers: {layers}}}")
        blocks = sorted(n for n in spec.projections if f"block.{n}.query" not in self._held)
        if blocks:
            self._refuse(f"attention inputs of the blocks {blocks}", f"{{kind: attention_inputs, blocks: {blocks}}}")
        everywhere = request.hidden_at != {"answer"}
        if spec.hidden and everywhere and self._layouts["hidden_states"].positions == "answer":
            self._refuse(
                "hidden states at all positions",
                f"{{kind: hidden_states, positions: all, layers: {sorted(spec.hidden)}}}",
            )

    def read(self, rows: Sequence[int], batch: TokenBatch, request: SignalRequest) -> Activations:
        """Return (B, L, D) tensors as a model gives them, zero where nothing is stored.

        Args:
            rows: the stored row of every sample of the batch, in their order.
        """
        found, spec = Activations(), request.activations
        if spec.hidden:
            states = self._placed(rows, batch, "hidden_states")
            found.hidden = {number: states[f"layer.{number}"] for number in spec.hidden}
        if spec.projections:
            states = self._placed(rows, batch, "attention_inputs")
            for number in spec.projections:
                found.projections[number] = QKV(*(states[f"block.{number}.{part}"] for part in _PARTS))
        return found

    def _placed(self, rows: Sequence[int], batch: TokenBatch, kind: str) -> dict[str, Tensor]:
        section = self._reader.read_flat(rows, kind)
        assert isinstance(section, States)
        everywhere = self._layouts[kind].positions == "all"
        at_BL = batch["attention_mask"].bool() if everywhere else predicting_positions(batch)
        return {name: placed(as_tensor(array, self._device), at_BL) for name, array in section.arrays.items()}

    def _refuse(self, needed: str, kind: str) -> None:
        stored = [
            f"{', '.join(array.name for array in layout.arrays)} at positions: {layout.positions}"
            for layout in self._layouts.values()
        ]
        raise TeacherError(
            "The cache does not hold the signal that a term reads.",
            where=self._reader.location,
            facts=[f"needed: {needed}", *(f"stored: {text}" for text in stored or ["no activations"])],
            fix=f"build a cache that has it: `distillab cache build` with cache: {{kinds: [{kind}]}}, or read the "
            "teacher itself: teacher: {path: …}",
        )


def encode_activations(layouts: Sequence[Layout], batch: RecordedBatch) -> dict[str, States]:
    """Return kind -> section of those layouts that hold activations."""
    return {
        layout.kind: KINDS[layout.kind].section(layout, batch) for layout in layouts if isinstance(layout, StatesLayout)
    }


def _layout(
    settings: FullKind | HiddenStatesKind | AttentionInputsKind,
    positions: Positions,
    widths: Iterable[tuple[str, int]],
    dtype: str,
) -> StatesLayout:
    store = _store(settings.store, dtype)
    arrays = tuple(StateArray.model_validate({"name": name, "width": width, "store": store}) for name, width in widths)
    return StatesLayout(kind=settings.kind, positions=positions, arrays=arrays)


def _store(store: StateStore, dtype: str) -> str:
    if store != "exact":
        return store
    if dtype not in ("float32", "float16", "bfloat16"):
        raise ConfigError(
            "A state cannot be stored exactly in the teacher's dtype.",
            facts=[f"dtype {dtype}", "known: float32, float16, bfloat16"],
            fix="store: bfloat16, or another dtype of the teacher",
        )
    return dtype


def _as_stored(states_PD: Tensor, array: StateArray) -> Tensor:
    if array.store == "bfloat16":
        return states_PD.to(torch.bfloat16)
    if array.store == "int8":
        return states_PD.float()
    if states_PD.dtype != _DTYPES[array.store]:
        raise TeacherError(
            "A tensor of the teacher has another dtype than the cache states.",
            where=array.name,
            facts=[f"the teacher's: {states_PD.dtype}", f"the cache: {array.store}"],
            fix="store: bfloat16",
        )
    return states_PD


def _require_numbers(name: str, wanted: Sequence[int], there: range, *, kind: str) -> None:
    absent = [number for number in wanted if number not in there]
    if absent:
        known = f"{there[0]} to {there[-1]}" if there else "none"
        raise ConfigError(
            f"The teacher does not have these {name}.",
            facts=[f"requested: {', '.join(map(str, absent))}", f"the teacher has {known}"],
            where=f"kind {kind}",
            fix=f"name {name} from {known}" if there else "read another kind",
        )


def _no_head() -> ConfigError:
    return ConfigError(
        "The teacher gives no output head, so its whole distribution cannot be stored.",
        where="kind full",
        fix="store the most likely tokens: {kind: top_k}",
    )

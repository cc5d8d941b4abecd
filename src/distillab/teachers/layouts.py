"""What a cache's settings mean for one teacher: how many bits an id takes, how wide each tensor is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict

from distillab.cache.bits import bits_for
from distillab.cache.identity import TeacherSizes
from distillab.cache.layout import Layout, SampledLayout, StateArray, StatesLayout, TextLayout, TopKLayout
from distillab.config.cache import (
    AttentionInputsKind,
    FullKind,
    HiddenStatesKind,
    KindConfig,
    SampledKind,
    StateStore,
    TextKind,
    TopKKind,
)
from distillab.errors import ConfigError
from distillab.models.structure import ModelShape

# The order of kinds in a cache, whatever their order in a recipe is: so it changes no fingerprint.
_ORDER = ("text", "top_k", "sampled", "full", "hidden_states", "attention_inputs")


def teacher_sizes(shape: ModelShape) -> TeacherSizes:
    """The sizes of a model as a cache's identity has them."""
    return TeacherSizes(**asdict(shape))


def teacher_shape(sizes: TeacherSizes) -> ModelShape:
    """The same back."""
    return ModelShape(**sizes.model_dump())


def resolve_layouts(
    kinds: Sequence[KindConfig], *, shape: ModelShape, dtype: str, width: int, head_inputs: int | None = None
) -> tuple[Layout, ...]:
    """The layout of every kind, in an order of their own.

    Args:
        kinds: no kind twice.
        shape: sizes of the teacher.
        dtype: the teacher's own, as "bfloat16"; in which `exact` states are stored.
        width: the teacher's distribution is over the ids 0 … width-1.
        head_inputs: numbers that the head reads a position; default: the width of the hidden states. A few models
            have a projection between the two.
    Raises:
        ConfigError: a layer or block that the teacher does not have, more kept tokens than there are, a dtype that
            cannot be stored, or a kind that stands twice.
    """
    names = [item.kind for item in kinds]
    if len(set(names)) != len(names):
        raise ConfigError("A cache holds each kind once.", facts=[f"asked for: {', '.join(names)}"])
    ordered = sorted(kinds, key=lambda item: _ORDER.index(item.kind))
    return tuple(
        _layout(item, shape=shape, dtype=dtype, width=width, head_inputs=head_inputs or shape.width) for item in ordered
    )


def _layout(item: KindConfig, *, shape: ModelShape, dtype: str, width: int, head_inputs: int) -> Layout:
    match item:
        case TextKind():
            return TextLayout()
        case TopKKind():
            if item.k > width:
                raise ConfigError(
                    "The teacher cannot tell more tokens than its distribution has.",
                    facts=[f"k {item.k}", f"width {width}"],
                    where="kind top_k",
                    fix="a smaller k, or kind full, which holds all of them",
                )
            return TopKLayout(k=item.k, id_bits=bits_for(width), values=item.values, temperature=item.temperature)
        case SampledKind():
            return SampledLayout(
                draws=item.draws,
                id_bits=bits_for(width),
                count_bits=bits_for(item.draws),
                temperature=item.temperature,
            )
        case FullKind():
            array = StateArray(name="head_input", width=head_inputs, store=_store(item.store, dtype))
            return StatesLayout(kind="full", positions="answer", arrays=(array,))
        case HiddenStatesKind():
            _require_numbers("layers", item.layers, range(shape.blocks + 1))
            store = _store(item.store, dtype)
            layers = tuple(StateArray(name=f"layer.{n}", width=shape.width, store=store) for n in item.layers)
            return StatesLayout(kind="hidden_states", positions=item.positions, arrays=layers)
        case AttentionInputsKind():
            _require_numbers("blocks", item.blocks, range(1, shape.blocks + 1))
            return StatesLayout(
                kind="attention_inputs",
                positions="all",
                arrays=tuple(_projections(item.blocks, shape, _store(item.store, dtype))),
            )


def _projections(blocks: Iterable[int], shape: ModelShape, store: str) -> Iterable[StateArray]:
    for number in blocks:
        for part, heads in (("query", shape.heads), ("key", shape.key_value_heads), ("value", shape.key_value_heads)):
            yield StateArray.model_validate(
                {"name": f"block.{number}.{part}", "width": heads * shape.head_width, "store": store}
            )


def _store(store: StateStore, dtype: str) -> str:
    if store != "exact":
        return store
    if dtype not in ("float32", "float16", "bfloat16"):
        raise ConfigError(
            "A state cannot be stored exactly in the teacher's own dtype.",
            facts=[f"dtype {dtype}", "known: float32, float16, bfloat16"],
            fix="store: bfloat16, or another dtype of the teacher",
        )
    return dtype


def _require_numbers(name: str, wanted: Sequence[int], there: range) -> None:
    absent = [number for number in wanted if number not in there]
    if absent:
        raise ConfigError(
            f"The teacher does not have these {name}.",
            facts=[f"asked for: {', '.join(map(str, absent))}", f"the teacher has {there[0]} to {there[-1]}"],
            where=f"kind {'hidden_states' if name == 'layers' else 'attention_inputs'}",
            fix=f"name {name} from {there[0]} to {there[-1]}",
        )

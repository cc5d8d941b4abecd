"""Record hidden states, projections and attention maps of chosen layers by forward hooks.

Shape letters: B sequences, L positions, D width of the hidden states.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from distillab.errors import ConfigError
from distillab.models.attention import keep_map
from distillab.models.projections import QKV, project
from distillab.models.structure import bare_model, decoder_blocks, decoder_body


@dataclass(frozen=True)
class ActivationSpec:
    """The activations that a step needs of a model.

    hidden: 0 is what the first block reads (the embeddings), ℓ the output of the ℓ-th block; for the last block
    that is after the final norm, as the head reads it. projections and maps: blocks, counted from 1.
    """

    hidden: frozenset[int] = frozenset()
    projections: frozenset[int] = frozenset()
    maps: frozenset[int] = frozenset()

    def __or__(self, other: ActivationSpec) -> ActivationSpec:
        return ActivationSpec(self.hidden | other.hidden, self.projections | other.projections, self.maps | other.maps)

    @property
    def inside(self) -> frozenset[int]:
        """The blocks of which something is recorded that is not their output."""
        return self.projections | self.maps

    def __bool__(self) -> bool:
        return bool(self.hidden or self.projections or self.maps)


@dataclass
class Activations:
    """The wanted tensors of one forward pass, with their graph where the model learns.

    hidden: index -> (B, L, D). projections: block -> its queries, keys and values.
    maps: block -> (B, H, L, L) attention probabilities, H heads.
    """

    hidden: dict[int, Tensor] = field(default_factory=dict)
    projections: dict[int, QKV] = field(default_factory=dict)
    maps: dict[int, Tensor] = field(default_factory=dict)


@contextmanager
def record_activations(model: torch.nn.Module, spec: ActivationSpec) -> Iterator[Activations]:
    """Record the wanted tensors of the forward pass that is done inside of the context.

    The hooks are gone when the context ends, so a recomputation in the backward pass (gradient checkpointing) does
    not record anything a second time.

    Raises:
        ConfigError: the model has no such part, does not give its attention maps, or was not run through a wanted
            layer.
    """
    found = Activations()
    handles: list[Any] = []
    if not spec:
        yield found
        return
    blocks = decoder_blocks(model)
    try:
        for index in spec.hidden:
            handles.append(_hidden_hook(model, blocks, index, found))
        for number in spec.projections:
            handles.extend(project(blocks[number - 1], number, found.projections, model=model))
        for number in spec.maps:
            handles.append(keep_map(blocks[number - 1], number, found.maps))
        yield found
        missing = sorted(spec.hidden - found.hidden.keys())
        if missing:
            raise ConfigError(
                "The forward pass did not go through all layers whose hidden states are wanted.",
                where=type(bare_model(model)).__name__,
                facts=[f"not passed: {missing}", f"the model has the layers 0 to {len(blocks)}"],
            )
    finally:
        for handle in handles:
            handle.remove()


def _hidden_hook(model: torch.nn.Module, blocks: torch.nn.ModuleList, index: int, found: Activations) -> Any:
    def keep(states: Any) -> None:
        if not isinstance(states, Tensor):
            raise ConfigError(
                "The model does not pass its hidden states on as a tensor, so they cannot be compared.",
                where=f"layer {index} of {type(bare_model(model)).__name__}",
                facts=[f"found: {type(states).__name__}"],
                fix="use a method that reads logits or text",
            )
        found.hidden[index] = states

    def from_input(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        keep(args[0] if args else kwargs.get("hidden_states"))

    def from_output(module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
        # a block gives a tensor, or a tuple that begins with it; the body gives a ModelOutput, which reads as a tuple
        keep(output if isinstance(output, Tensor) else output[0])

    if index == 0:
        # what the first block reads: after position embeddings, scaling, dropout and whatever else the model adds
        return blocks[0].register_forward_pre_hook(from_input, with_kwargs=True)
    if index == len(blocks):
        # the body's output is after the final norm
        return decoder_body(model).register_forward_hook(from_output)
    return blocks[index - 1].register_forward_hook(from_output)

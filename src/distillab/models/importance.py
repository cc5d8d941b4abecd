"""How much the parts of a model do on some batches: its decoder blocks, MLP channels and groups of heads.

Shape letters: B sequences, L positions, N tokens, D width of the hidden states, I channels of an MLP, G groups of heads
(a key-value head with its query heads).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from distillab.models.batch import TokenBatch
from distillab.models.inputs import model_inputs
from distillab.models.narrowing import WidthParts
from distillab.models.structure import decoder_blocks, decoder_body, model_shape


@dataclass(frozen=True, eq=False)
class Importance:
    """Means over all tokens of the batches, those of the prompts too, float64.

    Attributes:
        distances: reach r -> (blocks − r + 1,): 1 − cos of what block i reads and what block i + r − 1 gives. With
            r = 1 that is block influence (Men et al. 2024, ShortGPT, arXiv:2403.03853).
        channels: of each block (I,), |what the down projection reads|.
        groups: of each block (G,), L2 norm of what the output projection reads of the group (both as in Minitron,
            arXiv:2407.14679, with a mean over batch and sequence). Empty, as channels, where widths are not measured.
        tokens: how many they are means over.
    """

    distances: Mapping[int, Tensor] = field(default_factory=dict)
    channels: tuple[Tensor, ...] = ()
    groups: tuple[Tensor, ...] = ()
    tokens: int = 0


@torch.no_grad()
def measure_importance(
    model: torch.nn.Module, batches: Iterable[TokenBatch], *, reaches: Set[int], widths: Sequence[WidthParts] = ()
) -> Importance:
    """Run a model over batches, and measure its parts.

    Args:
        model: in eval mode.
        reaches: of the distances.
        widths: the projections of each block; none: whole blocks are measured alone.
    """
    body, blocks = decoder_body(model), decoder_blocks(model)
    sums, device = _Sums(reaches, model_shape(model).key_value_heads), next(model.parameters()).device
    with ExitStack() as stack:
        handles = [blocks[0].register_forward_pre_hook(sums.read, with_kwargs=True)]
        handles += [block.register_forward_hook(sums.given) for block in blocks]
        for number, parts in enumerate(widths):
            handles.append(parts.down.register_forward_pre_hook(partial(sums.channels, number)))
            handles.append(parts.output.register_forward_pre_hook(partial(sums.groups, number)))
        for handle in handles:
            stack.callback(handle.remove)
        for batch in batches:
            sums.begin(batch["attention_mask"].bool().to(device))
            body(**model_inputs(batch, device, model=body))
    return Importance(
        distances={r: torch.stack([sums.mean(r, i) for i in range(len(blocks) - r + 1)]) for r in reaches},
        channels=tuple(sums.mean("channels", number) for number in range(len(widths))),
        groups=tuple(sums.mean("groups", number) for number in range(len(widths))),
        tokens=sums.tokens,
    )


class _Sums:
    """What the hooks of a forward pass add up, token by token."""

    def __init__(self, reaches: Set[int], groups: int) -> None:
        self._reaches, self._groups = reaches, groups
        self._sums: dict[tuple[int | str, int], Tensor] = {}
        self._states: list[Tensor] = []
        self.tokens = 0

    def begin(self, mask_BL: Tensor) -> None:
        """Begin a batch."""
        self._mask_BL, self._states = mask_BL, []
        self.tokens += int(mask_BL.sum())

    def mean(self, what: int | str, place: int) -> Tensor:
        """Return the mean of a reach, or of channels or groups, at one block."""
        return self._sums[what, place] / self.tokens

    def read(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep what the first block reads."""
        self._states.append((args[0] if args else kwargs["hidden_states"])[self._mask_BL])

    def given(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        """Compare what a block gives with what earlier ones have read."""
        self._states.append((output if isinstance(output, Tensor) else output[0])[self._mask_BL])
        for reach in self._reaches:
            place = len(self._states) - 1 - reach
            if place >= 0:
                self._add(reach, place, cosine_distances(self._states[place], self._states[-1]))

    def channels(self, block: int, module: torch.nn.Module, args: tuple[Tensor, ...]) -> None:
        """Add what the down projection of a block reads."""
        self._add("channels", block, args[0][self._mask_BL].double().abs())

    def groups(self, block: int, module: torch.nn.Module, args: tuple[Tensor, ...]) -> None:
        """Add what the output projection of a block reads."""
        heads = args[0][self._mask_BL].unflatten(-1, (self._groups, -1))
        self._add("groups", block, heads.double().norm(dim=-1))

    def _add(self, what: int | str, place: int, values_N: Tensor) -> None:
        total = values_N.sum(dim=0).cpu()
        self._sums[what, place] = self._sums.get((what, place), torch.zeros_like(total)) + total


def cosine_distances(first_ND: Tensor, second_ND: Tensor) -> Tensor:
    """Return (N,) 1 − cos of the angle between two hidden states, float64."""
    return 1 - torch.nn.functional.cosine_similarity(first_ND.double(), second_ND.double(), dim=-1)

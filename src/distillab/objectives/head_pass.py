"""The student's head and everything that reads its logits, tile by tile, with the gradient made on the way.

The logits of a tile of rows are made, every term is applied to them, the gradient of the weighted sum is taken with
respect to them, multiplied into the gradients of the hidden states and of the head, and forgotten. So no tensor of size
tokens × vocabulary is ever alive, and the backward pass through the head is a multiplication by one number. The
terms' own formulas are used as they stand: torch differentiates them within the tile.

Shape letters: N scored positions of the microbatch, D student width, V student vocabulary.
Source: the idea of making the gradient in the forward is that of Liger-Kernel's fused linear losses (Hsu et al. 2024,
arXiv:2410.10989); here for any sum of terms, and the teacher's head is applied in the same tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from distillab.models.heads import OutputHead
from distillab.objectives.term import Said, SpanTerm, StudentScores, TokenTerm
from distillab.teachers.aligned import AlignedScores
from distillab.teachers.signals import TeacherScores

# Rows are multiplied with the head in tiles of at most so many float32 bytes, but at least so many rows: products of
# few rows are slow. The terms read a tile in pieces that stay in a core's cache. Measured: see docs/performance.md.
_TILE_BYTES = {"cpu": 32 << 20}
_TILE_BYTES_GPU = 256 << 20
_LEAST_ROWS = 128
_PIECE_BYTES = {"cpu": 2 << 20}


@dataclass
class HeadPass:
    """One pass over the scored positions of a microbatch.

    Attributes:
        head: the student's.
        targets_N: the tokens that are predicted.
        teacher: its scores at the same positions; None where no term reads them.
        terms: name -> term.
        factors: name -> what one nat of the term is multiplied by in the loss.
        values: name -> (N,) nats of every position; filled by the pass.
        settle: name of a `SpanTerm` -> its values from the (N, C) numbers that it observes.
    """

    head: OutputHead
    targets_N: Tensor
    teacher: TeacherScores | AlignedScores | None
    terms: Mapping[str, TokenTerm]
    factors: Mapping[str, float]
    values: dict[str, Tensor] = field(default_factory=dict)
    settle: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)

    def loss(self, hidden_ND: Tensor) -> Tensor:
        """Σ factor · nats over all terms and positions, a scalar that gradients flow back from."""
        return cast(Any, _Pass).apply(hidden_ND, self.head.weight_VD, self.head.bias_V, self)

    def piece(
        self,
        head: OutputHead,
        product_nV: Tensor,
        targets_n: Tensor,
        teacher: Said | None,
        values: Mapping[str, Tensor],
        slopes: Mapping[str, Tensor],
    ) -> Tensor:
        """Apply the terms to some rows of a tile: their weighted sum, a scalar.

        The rows' product with the head is overwritten by the gradient of that sum with respect to it, and `values` by
        each term's nats; those of a `SpanTerm` stand there already, and its gradient follows from its slopes.
        """
        leaf = product_nV.detach().requires_grad_()
        with torch.enable_grad():
            student = StudentScores(head.finish(leaf), targets_n)
            total = torch.zeros((), device=leaf.device)
            for name, term in self.terms.items():
                if isinstance(term, SpanTerm):
                    total = total + self.factors[name] * (term.observe(student) * slopes[name]).sum()
                    own = term.own_values(student, teacher)
                    if own is not None:
                        values[name].add_(own.detach())
                        total = total + self.factors[name] * own.sum()
                    continue
                nats = term.per_position(student, teacher)
                values[name].copy_(nats.detach())
                total = total + self.factors[name] * nats.sum()
            (gradient,) = torch.autograd.grad(total, leaf)
        product_nV.copy_(gradient)
        return torch.stack([self.factors[name] * nats.sum() for name, nats in values.items()]).sum()

    def settled(self, head: OutputHead, hidden_ND: Tensor) -> dict[str, Tensor]:
        """Observe every position for the terms that need several together: fills their values, gives their slopes.

        Returns:
            name of a `SpanTerm` -> (N, C), the derivative of its summed values by each number observed.
        """
        observed: dict[str, list[Tensor]] = {name: [] for name in self.settle}
        rows = tiles(hidden_ND.shape[0], head.weight_VD.shape[0], hidden_ND.device) or [slice(0, 0)]
        for here in rows if observed else ():
            student = StudentScores(head.logits(hidden_ND[here]), self.targets_N[here])
            for name, parts in observed.items():
                parts.append(cast(SpanTerm, self.terms[name]).observe(student))
        slopes = {}
        for name, parts in observed.items():
            leaf = torch.cat(parts).requires_grad_()
            with torch.enable_grad():
                nats = self.settle[name](leaf)
                (slopes[name],) = torch.autograd.grad(nats.sum(), leaf)
            self.values[name].copy_(nats.detach())
        return slopes


class _Pass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, work: HeadPass) -> Tensor:
        device = hidden_ND.device
        autocast = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if autocast else weight_VD.dtype
        hidden, weight = hidden_ND.to(dtype), weight_VD.to(dtype)
        bias = None if bias_V is None else bias_V.to(dtype)
        head = OutputHead(weight, bias, work.head.multiplier, work.head.cap)
        wants_hidden, wants_weight, wants_bias, _ = ctx.needs_input_grad
        # sums over many tiles are kept in float32, whatever the products are made in
        hidden_grad = torch.empty_like(hidden_ND) if wants_hidden else None
        weight_grad = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        bias_grad = torch.zeros_like(bias, dtype=torch.float32) if wants_bias and bias is not None else None
        # made before the loop: a small tensor that stays, allocated between large ones that go, would keep the
        # allocator from using their place again
        kind = torch.float64 if dtype == torch.float64 else torch.float32
        work.values = {name: torch.empty(hidden.shape[0], dtype=kind, device=device) for name in work.terms}
        loss = torch.zeros((), device=device)
        with torch.autocast(device.type, enabled=False):
            slopes = work.settled(head, hidden)
            memory: Tensor | None = None
            for here in tiles(hidden.shape[0], weight.shape[0], device):
                hidden_TD = hidden[here]
                if memory is None:  # the first tile is the largest
                    memory = hidden.new_empty(hidden_TD.shape[0], weight.shape[0])
                tile = head.product(hidden_TD, out=memory[: hidden_TD.shape[0]])
                teacher = None if work.teacher is None else work.teacher.tile(here, device)
                for piece in pieces(tile.shape[0], weight.shape[0], device):
                    scores = None if teacher is None else teacher.rows(piece)
                    values = {name: nats_N[here][piece] for name, nats_N in work.values.items()}
                    slope = {name: slope_NC[here][piece] for name, slope_NC in slopes.items()}
                    loss += work.piece(head, tile[piece], work.targets_N[here][piece], scores, values, slope)
                # the tile holds the gradient of its logits now
                if hidden_grad is not None:
                    hidden_grad[here] = tile @ weight
                if weight_grad is not None:
                    _add_product(weight_grad, tile, hidden_TD)
                if bias_grad is not None:
                    bias_grad += tile.sum(dim=0, dtype=torch.float32)
        ctx.gradients = (
            hidden_grad,
            None if weight_grad is None else weight_grad.to(weight_VD.dtype),
            None if bias_grad is None or bias_V is None else bias_grad.to(bias_V.dtype),
        )
        return loss

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        scale: Tensor = outputs[0]
        hidden, weight, bias = (
            None if gradient is None else gradient * scale.to(gradient.dtype) for gradient in ctx.gradients
        )
        return hidden, weight, bias, None


def tiles(rows: int, vocabulary: int, device: torch.device) -> list[slice]:
    """The rows in tiles that are multiplied with the head at once."""
    return _cut(rows, max(_LEAST_ROWS, _TILE_BYTES.get(device.type, _TILE_BYTES_GPU) // (4 * vocabulary)))


def pieces(rows: int, vocabulary: int, device: torch.device) -> list[slice]:
    """The rows of a tile in pieces that the terms read at once; one piece where there is no cache to fit into."""
    return _cut(rows, _PIECE_BYTES[device.type] // (4 * vocabulary) if device.type in _PIECE_BYTES else rows)


def _cut(rows: int, size: int) -> list[slice]:
    size = max(1, size)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def _add_product(total_VD: Tensor, gradient_NV: Tensor, hidden_ND: Tensor) -> None:
    if gradient_NV.dtype == total_VD.dtype:
        total_VD.addmm_(gradient_NV.T, hidden_ND)
    else:
        total_VD += gradient_NV.T @ hidden_ND

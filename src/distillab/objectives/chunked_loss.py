"""Apply the student's head and all terms on its logits chunk by chunk, with the gradient in the same pass.

For each chunk of rows the logits are computed, every term is applied to them, and the gradient of the weighted sum with
respect to them is multiplied into the gradients of the hidden states and of the head. Then the chunk is freed. So no
tensor of size tokens × vocabulary is ever in memory, and the backward pass through the head is a multiplication by one
number. The terms' formulas are used as they are (`TileScores`).

Shape letters: N scored positions of the microbatch, D student width, V student vocabulary.
Source: the gradient is computed in the forward pass as in Liger-Kernel's fused linear losses (Hsu et al. 2024,
arXiv:2410.10989); here for any sum of terms, and the teacher's head is applied in the same chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from distillab.models.chunking import chunks, sub_chunks
from distillab.models.heads import OutputHead
from distillab.objectives.drawn import Drawn
from distillab.objectives.term import SpanTerm, StudentScores, TeacherScores, TokenTerm
from distillab.objectives.tile_scores import TileScores
from distillab.teachers.aligned import AlignedScores
from distillab.teachers.signals import ChunkedScores


@dataclass
class ChunkedLoss:
    """One pass over the scored positions of a microbatch.

    Attributes:
        head: the student's.
        targets_N: the tokens that are predicted.
        teacher: its scores at the same positions; None if no term reads them.
        terms: name -> term.
        factors: name -> what one nat of the term is multiplied by in the loss.
        values: name -> (N,) nats of every position; filled by the pass.
        reduce_spans: name of a `SpanTerm` -> its values from the (N, C) numbers of `score`.
        scored_at: name of a `SpanTerm` -> (N,) bool, the positions whose numbers it reads, if not all.
        drawn: the tokens that the student drew itself, filled by the pass; None: there are none.
    """

    head: OutputHead
    targets_N: Tensor
    teacher: ChunkedScores | AlignedScores | None
    terms: Mapping[str, TokenTerm]
    factors: Mapping[str, float]
    values: dict[str, Tensor] = field(default_factory=dict)
    reduce_spans: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    scored_at: Mapping[str, Tensor] = field(default_factory=dict)
    drawn: Drawn | None = None

    def loss(self, hidden_ND: Tensor) -> Tensor:
        """Return Σ factor · nats over all terms and positions, a scalar with gradients."""
        return cast(Any, _Pass).apply(hidden_ND, self.head.weight_VD, self.head.bias_V, self)

    def apply_terms(
        self,
        head: OutputHead,
        product_nV: Tensor,
        targets_n: Tensor,
        teacher: TeacherScores | None,
        values: Mapping[str, Tensor],
        slopes: Mapping[str, Tensor],
        drawn: Drawn | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Apply the terms to some rows of a chunk; return their weighted sum, a scalar, and each row's factor.

        The rows' product with the head is overwritten by the gradient of that sum with respect to it, but for the
        factors (n, 1), if there are any; and `values` by each term's nats. Those of a `SpanTerm` are there already,
        and its gradient follows from its slopes.
        """
        leaf = product_nV.detach().requires_grad_()
        with torch.enable_grad():
            student = TileScores(head.finish(leaf), targets_n)
            if drawn is not None:
                drawn.fill(student)
            total = torch.zeros((), device=leaf.device)
            for name, term in self.terms.items():
                if isinstance(term, SpanTerm):
                    if name not in self.scored_at or bool(slopes[name].any()):
                        total = total + self.factors[name] * (term.score(student) * slopes[name]).sum()
                    if term.adds_position_values:
                        own = term.position_values(student, teacher)
                        values[name].add_(own.detach())
                        total = total + self.factors[name] * own.sum()
                    continue
                nats = term.per_position(student, teacher)
                if drawn is not None and (factor_n := drawn.factor_N) is not None:
                    nats = factor_n * nats
                values[name].copy_(nats.detach())
                total = total + self.factors[name] * nats.sum()
        factor_n1 = student.write_gradient(total, leaf, product_nV)
        return torch.stack([self.factors[name] * nats.sum() for name, nats in values.items()]).sum(), factor_n1

    def score_spans(
        self, head: OutputHead, hidden_ND: Tensor, memory: Tensor
    ) -> tuple[dict[str, Tensor], slice | None]:
        """Score every position for the span terms: fill their values, and return their slopes.

        Args:
            memory: (rows of the largest chunk, V), written over.
        Returns:
            name of a `SpanTerm` -> (N, C), the derivative of its summed values by each number; and the chunk
            whose product with the head is in `memory` now, or None.
        """
        if not self.reduce_spans:
            return {}, None
        count, device = hidden_ND.shape[0], hidden_ND.device
        targets = self.targets_N
        chosen = self._chosen(count - memory.shape[0])
        if chosen is not None:
            hidden_ND, targets = hidden_ND[chosen], targets[chosen]
        observed: dict[str, Tensor] = {}
        rows = chunks(hidden_ND.shape[0], memory.shape[1], device) or [slice(0, 0)]
        for here in reversed(rows):
            chunk = head.product(hidden_ND[here], out=memory[: here.stop - here.start])
            for part in sub_chunks(chunk.shape[0], memory.shape[1], device) or [slice(0, 0)]:
                student = StudentScores(head.finish(chunk[part]), targets[here][part])
                for name in self.reduce_spans:
                    numbers = cast(SpanTerm, self.terms[name]).score(student)
                    if name not in observed:
                        observed[name] = numbers.new_zeros(count, numbers.shape[1])
                    if chosen is None:
                        observed[name][here][part] = numbers
                    else:
                        observed[name][chosen[here][part]] = numbers
        slopes = {}
        for name, leaf in observed.items():
            leaf.requires_grad_()
            with torch.enable_grad():
                nats = self.reduce_spans[name](leaf)
                (slopes[name],) = torch.autograd.grad(nats.sum(), leaf)
            self.values[name].copy_(nats.detach())
        return slopes, rows[0] if chosen is None else None

    def _chosen(self, most: int) -> Tensor | None:
        """Return the positions that any term reads, if they are few enough; None: all."""
        if not all(name in self.scored_at for name in self.reduce_spans):
            return None
        chosen = torch.stack([self.scored_at[name] for name in self.reduce_spans]).any(dim=0).nonzero()[:, 0]
        return chosen if chosen.shape[0] <= most else None


class _Pass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, work: ChunkedLoss) -> Tensor:
        device = hidden_ND.device
        autocast = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if autocast else weight_VD.dtype
        hidden, weight = hidden_ND.to(dtype), weight_VD.to(dtype)
        bias = None if bias_V is None else bias_V.to(dtype)
        head = OutputHead(weight, bias, work.head.multiplier, work.head.cap)
        wants_hidden, wants_weight, wants_bias, _ = ctx.needs_input_grad
        # sums over many chunks are kept in float32, whatever the dtype of the products
        hidden_grad = torch.empty_like(hidden_ND) if wants_hidden else None
        weight_grad = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        bias_grad = torch.zeros_like(bias, dtype=torch.float32) if wants_bias and bias is not None else None
        # made before the loop: a small tensor that is kept, allocated between large ones that are freed, would keep
        # the allocator from reusing their memory
        kind = torch.float64 if dtype == torch.float64 else torch.float32
        work.values = {name: torch.empty(hidden.shape[0], dtype=kind, device=device) for name in work.terms}
        loss = torch.zeros((), device=device)
        # a span term without position values has read the teacher in `score_spans`
        read_here = any(
            term.score_request is not None and not (isinstance(term, SpanTerm) and not term.adds_position_values)
            for term in work.terms.values()
        )
        with torch.autocast(device.type, enabled=False):
            rows = chunks(hidden.shape[0], weight.shape[0], device)
            # the first chunk is the largest
            memory = hidden.new_empty(rows[0].stop if rows else 0, weight.shape[0])
            slopes, held = work.score_spans(head, hidden, memory)
            for here in rows:
                hidden_TD = hidden[here]
                chunk = memory[: hidden_TD.shape[0]]
                if here != held:
                    head.product(hidden_TD, out=chunk)
                teacher = work.teacher.chunk(here, device) if work.teacher is not None and read_here else None
                factor_T1 = None
                for part in sub_chunks(chunk.shape[0], weight.shape[0], device):
                    scores = None if teacher is None else teacher.rows(part)
                    values = {name: nats_N[here][part] for name, nats_N in work.values.items()}
                    slope = {name: slope_NC[here][part] for name, slope_NC in slopes.items()}
                    drawn = None if work.drawn is None else work.drawn.at(here).at(part)
                    targets = work.targets_N[here][part]
                    nats, factor_n1 = work.apply_terms(head, chunk[part], targets, scores, values, slope, drawn)
                    loss += nats
                    if factor_n1 is not None:
                        factor_T1 = factor_n1.new_ones(chunk.shape[0], 1) if factor_T1 is None else factor_T1
                        factor_T1[part] = factor_n1
                # the chunk holds the gradient of its logits now, but for a factor a row: on the narrower matrix it
                # costs nothing
                if hidden_grad is not None:
                    gradient_TD = chunk @ weight
                    hidden_grad[here] = gradient_TD if factor_T1 is None else gradient_TD * factor_T1
                if weight_grad is not None:
                    _add_product(weight_grad, chunk, hidden_TD if factor_T1 is None else hidden_TD * factor_T1)
                if bias_grad is not None:
                    scaled = chunk if factor_T1 is None else chunk * factor_T1
                    bias_grad += scaled.sum(dim=0, dtype=torch.float32)
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


def _add_product(total_VD: Tensor, gradient_NV: Tensor, hidden_ND: Tensor) -> None:
    if gradient_NV.dtype == total_VD.dtype:
        total_VD.addmm_(gradient_NV.T, hidden_ND)
    else:
        total_VD += gradient_NV.T @ hidden_ND

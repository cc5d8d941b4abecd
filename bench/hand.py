"""The yardstick: forward KL in a hand-written loop, heads on supervised rows only, in chunks, gradient made at once.

Twenty lines that assume everything which a library may not: one loss, no head bias, no scale, float32, no packing.
N supervised positions, V vocabulary, D width of the student, E of the teacher, R rows of a chunk.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from bench.measure import Probe, repeat
from bench.pair import answer_mask, student_of, teacher_of, token_ids
from bench.settings import HAND_CHUNK_ROWS, LEARNING_RATE, Run


class FusedForwardKL(torch.autograd.Function):
    """Mean forward KL from hidden states: loss and gradients in one pass over the chunks."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, head_VD: Tensor, teacher_NE: Tensor, teacher_head_VE: Tensor) -> Tensor:
        """The mean over the N positions, in nats."""
        count = len(hidden_ND)
        grad_hidden_ND, grad_head_VD = torch.empty_like(hidden_ND), torch.zeros_like(head_VD)
        total = hidden_ND.new_zeros(())
        for start in range(0, count, HAND_CHUNK_ROWS):
            rows = slice(start, start + HAND_CHUNK_ROWS)
            teacher_RV = torch.log_softmax(teacher_NE[rows] @ teacher_head_VE.T, dim=-1)
            student_RV = torch.log_softmax(hidden_ND[rows] @ head_VD.T, dim=-1)
            p_RV = teacher_RV.exp()
            total += (p_RV * teacher_RV.sub_(student_RV)).sum()
            grad_RV = student_RV.exp_().sub_(p_RV).div_(count)
            torch.mm(grad_RV, head_VD, out=grad_hidden_ND[rows])
            grad_head_VD.addmm_(grad_RV.T, hidden_ND[rows])
        ctx.save_for_backward(grad_hidden_ND, grad_head_VD)
        return total / count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """The gradients are there already."""
        grad_hidden_ND, grad_head_VD = ctx.saved_tensors
        return grad_hidden_ND * grads[0], grad_head_VD * grads[0], None, None


def hand_kl(run: Run, probe: Probe) -> None:
    """Forward KL alone, gradients clipped as the trainers do."""
    size, device = run.shape, run.device
    teacher, student = teacher_of(size, device), student_of(size, device)
    optimizer = torch.optim.AdamW(student.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    fused = cast(Any, FusedForwardKL).apply
    ids, mask = token_ids(size).to(device), answer_mask(size)[:, 1:].to(device)

    def step() -> float:
        with torch.no_grad():
            teacher_NE = teacher.model(ids).last_hidden_state[:, :-1][mask]
        hidden_ND = student.model(ids).last_hidden_state[:, :-1][mask]
        loss = fused(hidden_ND, student.lm_head.weight, teacher_NE, teacher.lm_head.weight)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    repeat(step, probe)

"""The floor: the arithmetic that no implementation can leave out, and nothing else.

Both backbones, the products with the heads at the supervised positions, the optimizer. The gradient with respect to
the logits is given instead of computed: no softmax, no loss, no check, no clipping, no log.
N supervised positions, R rows of a chunk, V vocabulary, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from bench.measure import Probe, repeat
from bench.pair import answer_mask, student_of, teacher_of, token_ids
from bench.settings import FLOOR_TILE_ROWS, LEARNING_RATE, Run


def floor(run: Run, probe: Probe) -> None:
    """With a teacher: what a step of logit distillation cannot go below."""
    _measure(run, probe, teacher_of(run.shape, run.device))


def floor_sft(run: Run, probe: Probe) -> None:
    """Without one: what a step of supervised fine-tuning cannot go below."""
    _measure(run, probe, None)


def _measure(run: Run, probe: Probe, teacher: LlamaForCausalLM | None) -> None:
    size, device = run.shape, run.device
    student = student_of(size, device)
    optimizer = torch.optim.AdamW(student.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    ids, mask = token_ids(size).to(device), answer_mask(size)[:, 1:].to(device)
    logits_RV = torch.empty(FLOOR_TILE_ROWS, size.vocabulary, device=device)
    given_RV = torch.randn(FLOOR_TILE_ROWS, size.vocabulary, device=device) / size.vocabulary
    teacher_RV = (
        None if teacher is None else torch.empty(FLOOR_TILE_ROWS, size.vocabulary, device=device, dtype=teacher.dtype)
    )

    def step() -> None:
        if teacher is not None and teacher_RV is not None:
            with torch.inference_mode():
                hidden_NE = teacher.model(ids).last_hidden_state[:, :-1][mask]
                for rows in hidden_NE.split(FLOOR_TILE_ROWS):
                    torch.mm(rows, teacher.lm_head.weight.T, out=teacher_RV[: len(rows)])
        hidden_ND = student.model(ids).last_hidden_state[:, :-1][mask]
        grad_ND, grad_VD = head_products(hidden_ND.detach(), student.lm_head.weight.detach(), logits_RV, given_RV)
        hidden_ND.backward(grad_ND)
        student.lm_head.weight.grad = grad_VD
        optimizer.step()
        optimizer.zero_grad()

    repeat(step, probe)


def head_products(hidden_ND: Tensor, head_VD: Tensor, logits_RV: Tensor, given_RV: Tensor) -> tuple[Tensor, Tensor]:
    """The three products of a head: logits, gradient of the hidden states (N, D), gradient of the weights (V, D).

    Args:
        logits_RV: is overwritten, chunk after chunk.
        given_RV: stands for the gradient with respect to the logits, the same in every chunk.
    """
    grad_ND, grad_VD = torch.empty_like(hidden_ND), torch.zeros_like(head_VD)
    for start in range(0, len(hidden_ND), FLOOR_TILE_ROWS):
        rows_RD = hidden_ND[start : start + FLOOR_TILE_ROWS]
        count = len(rows_RD)
        torch.mm(rows_RD, head_VD.T, out=logits_RV[:count])
        torch.mm(given_RV[:count], head_VD, out=grad_ND[start : start + count])
        grad_VD.addmm_(given_RV[:count].T, rows_RD)
    return grad_ND, grad_VD

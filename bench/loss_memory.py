"""The memory of the loss alone: the pass through both heads and the terms, forward and backward, without backbones.

Given are random hidden states of both models at the supervised positions. What leaves the pass is subtracted from its
peak, because it has to be there in any implementation and grows with the sizes: the gradients of the student's hidden
states (N, D) and of its head (V, D), four bytes a number. The weights and hidden states are there before, so they do
not count. What is left is what the loss itself needs; it must not grow with N × V.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.measure import Probe, repeat
from bench.settings import SEED, WEIGHTS_STD, Run
from distillab.config.terms import CrossEntropyConfig, TokenDivergenceConfig
from distillab.models.heads import OutputHead
from distillab.objectives import build_objective
from distillab.objectives.chunked_loss import ChunkedLoss
from distillab.teachers.signals import HeadInputs

_FEW = 8


def loss_memory(run: Run, probe: Probe) -> None:
    """Cross-entropy and forward KL together, as the method `logits` has them."""
    size = run.shape
    positions = int(size.tokens // 2)
    generator = torch.Generator().manual_seed(SEED)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    student_VD = (draw(size.vocabulary, size.student.width) * WEIGHTS_STD).requires_grad_()
    teacher_VE = draw(size.vocabulary, size.teacher.width) * WEIGHTS_STD
    hidden_ND, teacher_NE = draw(positions, size.student.width), draw(positions, size.teacher.width)
    targets_N = torch.randint(size.vocabulary, (positions,), generator=generator)
    settings = (CrossEntropyConfig(weight=0.5), TokenDivergenceConfig(weight=0.5))
    objective = build_objective(settings, shared_width=size.vocabulary)

    def step(count: int = positions) -> float:
        work = ChunkedLoss(
            head=OutputHead(student_VD),
            targets_N=targets_N[:count],
            teacher=HeadInputs(teacher_NE[:count], OutputHead(teacher_VE)),
            terms=objective.token_terms,
            factors=dict.fromkeys(objective.token_terms, 0.5 / count),
        )
        hidden = hidden_ND[:count].clone().requires_grad_()
        loss = work.loss(hidden)
        loss.backward()
        student_VD.grad = None
        return float(loss.detach())

    step(_FEW)  # loads what the first use of each operation loads
    repeat(step, probe)
    results = 4 * (hidden_ND.numel() + student_VD.numel())
    probe.facts |= {
        "supervised": positions,
        "vocabulary": size.vocabulary,
        "results_bytes": results,
        "loss_bytes": max(0, probe.peak_bytes - probe.base_bytes - results),
    }

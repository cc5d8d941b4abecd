"""Before the first step: terms on inner states see one batch, from which their projectors start."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from distillab.models.batch import TokenBatch
from distillab.models.capture import Captured, capture
from distillab.models.heads import OutputHead, at_head
from distillab.models.meetings import teacher_batch
from distillab.models.scoring import at_scored
from distillab.objectives.step import teacher_end
from distillab.objectives.term import ModelEnd, Objective
from distillab.teachers.protocol import Teacher


@torch.no_grad()
def initialise(
    objective: Objective, student: torch.nn.Module, teacher: Teacher, batch: TokenBatch, *, device: torch.device
) -> None:
    """Let every term on inner states initialise itself on a batch; the student's weights are only read.

    Args:
        device: the student's.
    """
    was_training = student.training
    student.eval()
    heads = objective.head_terms
    request = replace(objective.request, scores=frozenset(term.need for term in heads.values()))
    signal = teacher.signal(teacher_batch(batch), request)
    ends: list[ModelEnd] = []

    def keep(hidden_BLD: Tensor, head: OutputHead) -> Tensor:
        hidden_ND = at_scored(hidden_BLD, batch)
        ends.append(ModelEnd(hidden_ND, head, inner))
        return hidden_ND

    with capture(student, objective.student_inner) as inner:
        at_head(student, batch, keep, device=device)
    for term in objective.inner_terms.values():
        term.initialise(inner, signal.inner or Captured(), batch)
    for head_term in heads.values():
        head_term.initialise(ends[0], teacher_end(signal), batch)
    student.train(was_training)

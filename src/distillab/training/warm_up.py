"""Before the first step: terms on inner states see one batch, from which their projectors start."""

from __future__ import annotations

from dataclasses import replace

import torch

from distillab.models.batch import TokenBatch
from distillab.models.capture import Captured, capture
from distillab.models.heads import at_head
from distillab.models.meetings import teacher_batch
from distillab.objectives.term import Objective
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
    signal = teacher.signal(teacher_batch(batch), replace(objective.request, scores=frozenset()))
    with capture(student, objective.student_inner) as inner:
        at_head(student, batch, lambda hidden_BLD, head: hidden_BLD, device=device)
    for term in objective.inner_terms.values():
        term.initialise(inner, signal.inner or Captured(), batch)
    student.train(was_training)

"""Initialise the projectors of terms on activations from one batch, before the first step."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from distillab.models.activations import Activations, record_activations
from distillab.models.aligned_positions import teacher_batch
from distillab.models.batch import TokenBatch
from distillab.models.heads import OutputHead, with_lm_head
from distillab.models.scoring import at_scored
from distillab.objectives.step import teacher_outputs
from distillab.objectives.term import ModelOutputs, Objective
from distillab.teachers.protocol import SignalSource


@torch.no_grad()
def initialise(
    objective: Objective, student: torch.nn.Module, teacher: SignalSource, batch: TokenBatch, *, device: torch.device
) -> None:
    """Let every term on activations initialise itself on a batch; the student's weights are not changed.

    Args:
        device: the student's.
    """
    was_training = student.training
    student.eval()
    heads = objective.head_terms
    request = replace(objective.request, scores=frozenset(term.score_request for term in heads.values()))
    signal = teacher.signal(teacher_batch(batch), request)
    ends: list[ModelOutputs] = []

    def keep(hidden_BLD: Tensor, head: OutputHead) -> Tensor:
        hidden_ND = at_scored(hidden_BLD, batch)
        ends.append(ModelOutputs(hidden_ND, head, activations))
        return hidden_ND

    with record_activations(student, objective.student_activations) as activations:
        with_lm_head(student, batch, keep, device=device)
    for term in objective.activation_terms.values():
        term.initialise(activations, signal.activations or Activations(), batch)
    for head_term in heads.values():
        head_term.initialise(ends[0], teacher_outputs(signal), batch)
    student.train(was_training)

"""Base of the terms on hidden states of mapped layers: layers, projector, losses, initialisation.

Shape letters: N units (positions, or spans), D and E widths of student and teacher.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from distillab.config.layer_terms import HiddenStatesConfig, SpanHiddenStatesConfig
from distillab.errors import ConfigError
from distillab.models.activations import Activations, ActivationSpec
from distillab.models.batch import TokenBatch
from distillab.models.structure import ModelShape
from distillab.objectives.build import TermContext
from distillab.objectives.layer_maps import layer_pairs
from distillab.objectives.projector import build_projector, least_squares, pair_weight
from distillab.objectives.similarity import cosine_distance, mean_squared_error, unit_rms
from distillab.objectives.term import ActivationTerm


class LayerStatesTerm(ActivationTerm):
    """Base of the terms that pull the student's states towards the teacher's, unit by unit, at mapped layers.

        mse     Σ_n ‖P ĥ_s(n) − ĥ_t(n)‖² / E,   ĥ = h / rms(h),   E the teacher's width
        cosine  Σ_n 1 − cos(P h_s(n), h_t(n))

    averaged over the mapped pairs; P is the pair's projector, or the identity. A subclass defines the unit.

    Args:
        settings: layers, loss and projector.
        student, teacher: sizes of the two models.
    Raises:
        ConfigError: a layer that a model does not have; no projector where the widths differ; a learning rate without a
            projector.
    """

    def __init__(
        self, settings: HiddenStatesConfig | SpanHiddenStatesConfig, *, student: ModelShape, teacher: ModelShape
    ) -> None:
        self.loss = settings.loss
        self.pairs = layer_pairs(settings.layers, student_blocks=student.blocks, teacher_blocks=teacher.blocks)
        self.student_activations = ActivationSpec(hidden=frozenset(pair[0] for pair in self.pairs))
        self.teacher_activations = ActivationSpec(hidden=frozenset(pair[1] for pair in self.pairs))
        self.projector: torch.nn.Module | None = None
        self.projector_init = settings.projector_init
        self.projector_learning_rate = settings.projector_learning_rate
        if settings.loss != "cka":
            self.projector = build_projector(
                settings.projector, self.pairs, student_width=student.width, teacher_width=teacher.width
            )
        if self.projector is None and settings.projector_learning_rate is not None:
            raise ConfigError(
                "There is no projector, so its learning rate would have no effect.",
                where=f"projector_learning_rate: {settings.projector_learning_rate}",
                facts=[f"loss {settings.loss}", f"student width {student.width}", f"teacher width {teacher.width}"],
                fix="leave projector_learning_rate out, or write projector: linear (not with cka)",
            )

    @classmethod
    def from_config(cls, settings: HiddenStatesConfig | SpanHiddenStatesConfig, context: TermContext) -> Self:
        """Build the term for the two models of `context`."""
        student, teacher = context.require_shapes(settings.kind)
        return cls(settings, student=student, teacher=teacher)

    def states(
        self, pair: tuple[int, int], student: Activations, teacher: Activations, batch: TokenBatch
    ) -> tuple[Tensor, Tensor]:
        """Return (N, D) and (N, E) float32 of the units, on the student's device; the teacher's detached."""
        raise NotImplementedError

    def total(self, student: Activations, teacher: Activations, batch: TokenBatch) -> Tensor:
        """Return () the sum over the units of a microbatch, float32; connected to the student, even without units.

        Args:
            student: hidden states at `student_activations`, with their graph.
            teacher: hidden states at `teacher_activations`, on any device and in any dtype.
            batch: the batch that both models have read.
        Raises:
            ShapeError: the states do not belong to the batch, or the widths are not those of the sizes given before.
        """
        parts = []
        for pair in self.pairs:
            student_ND, teacher_NE = self.states(pair, student, teacher, batch)
            # bfloat16 autocast would round the differences that are measured here
            with torch.autocast(student_ND.device.type, enabled=False):
                parts.append(self.pair_total(pair, student_ND, teacher_NE, batch))
        return torch.stack(parts).mean()

    @torch.no_grad()
    def initialise(self, student: Activations, teacher: Activations, batch: TokenBatch) -> None:
        """Fit the projector to one batch if the settings state least_squares; else do nothing.

        The squares are those of the loss mse; cosine uses the same projector.

        Raises:
            NumericsError: the batch has no unit, or states that cannot be fitted.
        """
        if self.projector is None or self.projector_init == "orthogonal":
            return
        for pair in self.pairs:
            student_ND, teacher_NE = (unit_rms(states) for states in self.states(pair, student, teacher, batch))
            pair_weight(self.projector, pair).copy_(least_squares(student_ND=student_ND, teacher_NE=teacher_NE))

    def pair_total(self, pair: tuple[int, int], student_ND: Tensor, teacher_NE: Tensor, batch: TokenBatch) -> Tensor:
        """Return () the sum over the units for one pair of layers."""
        student_ND, teacher_NE = unit_rms(student_ND), unit_rms(teacher_NE)
        if self.projector is not None:
            student_ND = student_ND @ pair_weight(self.projector, pair).float().T
        loss = mean_squared_error if self.loss == "mse" else cosine_distance
        return loss(student_ND=student_ND, teacher_ND=teacher_NE).sum()

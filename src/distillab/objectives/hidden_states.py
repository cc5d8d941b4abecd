"""Distance between the hidden states of mapped layers.

Shape letters: B sequences, L positions, N chosen positions in row order, D and E widths of student and teacher.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distillab.config.terms import HiddenStatesConfig, TokenNeed
from distillab.errors import ConfigError, ShapeError
from distillab.models.batch import TokenBatch
from distillab.models.capture import Captured, Inner
from distillab.models.structure import ModelShape
from distillab.models.visibility import sample_numbers
from distillab.objectives.layer_maps import layer_pairs
from distillab.objectives.positions import chosen_positions
from distillab.objectives.projector import build_projector, least_squares, pair_weight
from distillab.objectives.similarity import FEWEST_FOR_CKA, cosine_distance, debiased_cka, mean_squared_error, unit_rms
from distillab.records import AccessLevel


class HiddenStates:
    """The student's states are drawn to the teacher's at the chosen positions of the mapped layers.

        mse     Σ_t ‖P ĥ_s(t) − ĥ_t(t)‖² / E,   ĥ = h / rms(h),   E the teacher's width
        cosine  Σ_t 1 − cos(P h_s(t), h_t(t))
        cka     Σ_samples n · (1 − CKA(H_s, H_t)),   n chosen positions of the sample

    averaged over the mapped pairs; P is the pair's projector, or the identity. The unit is a chosen position. All
    values are plain numbers, not nats: 0 where both sides are equal, 1 where P ĥ_s is zero (mse, cosine) or where the
    states are unrelated (cosine, cka).

    The student's states are brought to one scale *before* the projector as well. Between blocks a state may be
    hundreds of times longer in one model than in the other; a projector that had to make up for it would have weights
    so small that one optimizer step of the usual size throws it far off.

    For cka a sample with fewer than 4 chosen positions has no value: its positions are neither counted nor summed.

    Args:
        settings: layers, loss, positions and projector.
        student: sizes of the student.
        teacher: sizes of the teacher.
    Raises:
        ConfigError: a layer that a model does not have; no projector where the widths differ; a learning rate for a
            projector that there is none of.
    Source: see `objectives/similarity.py` for the losses, `objectives/layer_maps.py` for the layers.
    """

    name: str = "hidden_states"
    access: AccessLevel = HiddenStatesConfig.access
    tokens: TokenNeed = HiddenStatesConfig.tokens

    def __init__(self, settings: HiddenStatesConfig, *, student: ModelShape, teacher: ModelShape) -> None:
        self.settings = settings
        self.pairs = layer_pairs(settings.layers, student_blocks=student.blocks, teacher_blocks=teacher.blocks)
        self.student_inner = Inner(hidden=frozenset(pair[0] for pair in self.pairs))
        self.teacher_inner = Inner(hidden=frozenset(pair[1] for pair in self.pairs))
        self.projector: torch.nn.Module | None = None
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

    def count(self, batch: TokenBatch) -> int:
        """Chosen positions; for cka those of samples that have at least 4 of them."""
        if self.settings.loss != "cka":
            return int(chosen_positions(batch, self.settings.positions).sum())
        return sum(size for size in self._sample_sizes(batch) if size >= FEWEST_FOR_CKA)

    def total(self, student: Captured, teacher: Captured, batch: TokenBatch) -> Tensor:
        """() the sum over the units of a microbatch, float32; connected to the student also where there is none.

        Args:
            student: hidden states at `student_inner`, (B, L, D) each, with their graph.
            teacher: hidden states at `teacher_inner`, (B, L, E) each, on any device and in any dtype.
            batch: what both have read.
        Raises:
            ShapeError: the states do not belong to the batch, or the widths are not those of the sizes given before.
        """
        sizes = self._sample_sizes(batch) if self.settings.loss == "cka" else []
        parts = [self._pair_total(pair, *self._states(pair, student, teacher, batch), sizes) for pair in self.pairs]
        return torch.stack(parts).mean()

    @torch.no_grad()
    def initialise(self, student: Captured, teacher: Captured, batch: TokenBatch) -> None:
        """Fit the projector to one batch, where the settings say least_squares; else nothing is to be done.

        The squares are those of the loss mse; cosine starts from the same.

        Raises:
            NumericsError: the batch has no chosen position, or states that cannot be fitted.
        """
        if self.projector is None or self.settings.projector_init == "orthogonal":
            return
        for pair in self.pairs:
            student_ND, teacher_NE = (unit_rms(states) for states in self._states(pair, student, teacher, batch))
            pair_weight(self.projector, pair).copy_(least_squares(student_ND=student_ND, teacher_NE=teacher_NE))

    def _pair_total(
        self, pair: tuple[int, int], student_ND: Tensor, teacher_NE: Tensor, sample_sizes: list[int]
    ) -> Tensor:
        # bfloat16 autocast would round the differences that are measured here
        with torch.autocast(student_ND.device.type, enabled=False):
            if self.settings.loss == "cka":
                return _cka_total(student_ND, teacher_NE, sample_sizes)
            student_ND, teacher_NE = unit_rms(student_ND), unit_rms(teacher_NE)
            if self.projector is not None:
                student_ND = student_ND @ pair_weight(self.projector, pair).float().T
            loss = mean_squared_error if self.settings.loss == "mse" else cosine_distance
            return loss(student_ND=student_ND, teacher_ND=teacher_NE).sum()

    def _states(
        self, pair: tuple[int, int], student: Captured, teacher: Captured, batch: TokenBatch
    ) -> tuple[Tensor, Tensor]:
        """(N, D) and (N, E) float32 at the chosen positions, on the student's device; the teacher's detached."""
        student_BLD, teacher_BLE = student.hidden[pair[0]], teacher.hidden[pair[1]]
        chosen_BL = chosen_positions(batch, self.settings.positions)
        if student_BLD.shape[:2] != chosen_BL.shape or teacher_BLE.shape[:2] != chosen_BL.shape:
            raise ShapeError(
                "Hidden states and batch do not fit together.",
                where=f"layers {list(pair)}",
                facts=[
                    f"student {tuple(student_BLD.shape)}",
                    f"teacher {tuple(teacher_BLE.shape)}",
                    f"batch {tuple(chosen_BL.shape)}",
                ],
            )
        # chosen before they are moved and widened: the rest never costs anything
        student_ND = student_BLD[chosen_BL.to(student_BLD.device)].float()
        teacher_NE = teacher_BLE.detach()[chosen_BL.to(teacher_BLE.device)].to(student_BLD.device).float()
        return student_ND, teacher_NE

    def _sample_sizes(self, batch: TokenBatch) -> list[int]:
        """Chosen positions of each sample that has any, in row order."""
        sample_BL = sample_numbers(batch)
        size, length = sample_BL.shape
        # numbered through the batch: a sequence has no more samples than positions
        sample_BL = sample_BL + length * torch.arange(size, device=sample_BL.device)[:, None]
        _, sizes = torch.unique_consecutive(
            sample_BL[chosen_positions(batch, self.settings.positions)], return_counts=True
        )
        return sizes.tolist()


def _cka_total(student_ND: Tensor, teacher_NE: Tensor, sample_sizes: list[int]) -> Tensor:
    total = student_ND[:0].sum()  # zero, with the graph of the student
    for student_nD, teacher_nE in zip(student_ND.split(sample_sizes), teacher_NE.split(sample_sizes), strict=True):
        if student_nD.shape[0] >= FEWEST_FOR_CKA:
            similarity = debiased_cka(student_nD=student_nD, teacher_nE=teacher_nE)
            total = total + student_nD.shape[0] * (1.0 - similarity)
    return total

"""Distance between the hidden states of mapped layers.

Shape letters: B sequences, L positions, N chosen positions in row order, D and E widths of student and teacher.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distillab.config.layer_terms import HiddenStatesConfig
from distillab.errors import ShapeError
from distillab.models.activations import Activations
from distillab.models.batch import TokenBatch
from distillab.models.structure import ModelShape
from distillab.models.visibility import sample_numbers
from distillab.objectives.layer_states import LayerStatesTerm
from distillab.objectives.positions import chosen_positions
from distillab.objectives.similarity import FEWEST_FOR_CKA, debiased_cka


class HiddenStates(LayerStatesTerm, config=HiddenStatesConfig):
    """Pull the student's states towards the teacher's, at the chosen positions of the mapped layers.

        mse     Σ_t ‖P ĥ_s(t) − ĥ_t(t)‖² / E,   ĥ = h / rms(h),   E the teacher's width
        cosine  Σ_t 1 − cos(P h_s(t), h_t(t))
        cka     Σ_samples n · (1 − CKA(H_s, H_t)),   n chosen positions of the sample

    averaged over the mapped pairs; P is the pair's projector, or the identity. The unit is a chosen position. All
    values are plain numbers, not nats: 0 where both states are equal, 1 where P ĥ_s is zero (mse, cosine) or where the
    states are unrelated (cosine, cka).

    The student's states are normalised *before* the projector as well. Between blocks a state can be hundreds of times
    longer in one model than in the other; a projector that had to compensate for it would have weights so small that
    one optimizer step of the usual size would change it far too much.

    For cka a sample with fewer than 4 chosen positions has no value: its positions are neither counted nor summed.

    Args:
        settings: layers, loss, positions and projector.
        student: sizes of the student.
        teacher: sizes of the teacher.
    Raises:
        ConfigError: a layer that a model does not have; no projector where the widths differ; a learning rate without a
            projector.
    Source: see `objectives/similarity.py` for the losses, `objectives/layer_maps.py` for the layers.
    """

    def __init__(self, settings: HiddenStatesConfig, *, student: ModelShape, teacher: ModelShape) -> None:
        super().__init__(settings, student=student, teacher=teacher)
        self.settings = settings
        self.positions = settings.positions

    def count(self, batch: TokenBatch) -> int:
        """Count the chosen positions; for cka those of samples that have at least 4 of them."""
        if self.settings.loss != "cka":
            return int(chosen_positions(batch, self.positions).sum())
        return sum(size for size in self._sample_sizes(batch) if size >= FEWEST_FOR_CKA)

    def pair_total(self, pair: tuple[int, int], student_ND: Tensor, teacher_NE: Tensor, batch: TokenBatch) -> Tensor:
        """Return () the sum over the units for one pair of layers."""
        if self.loss == "cka":
            return _cka_total(student_ND, teacher_NE, self._sample_sizes(batch))
        return super().pair_total(pair, student_ND, teacher_NE, batch)

    def states(
        self, pair: tuple[int, int], student: Activations, teacher: Activations, batch: TokenBatch
    ) -> tuple[Tensor, Tensor]:
        """Return (N, D) and (N, E) float32 at the chosen positions, on the student's device; the teacher's detached."""
        student_BLD, teacher_BLE = student.hidden[pair[0]], teacher.hidden[pair[1]]
        chosen_BL = chosen_positions(batch, self.positions)
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
        # chosen before they are moved and converted, so that the rest costs nothing
        student_ND = student_BLD[chosen_BL.to(student_BLD.device)].float()
        teacher_NE = teacher_BLE.detach()[chosen_BL.to(teacher_BLE.device)].to(student_BLD.device).float()
        return student_ND, teacher_NE

    def _sample_sizes(self, batch: TokenBatch) -> list[int]:
        """Return the number of chosen positions of each sample that has any, in row order."""
        sample_BL = sample_numbers(batch)
        size, length = sample_BL.shape
        # numbered through the batch: a sequence has no more samples than positions
        sample_BL = sample_BL + length * torch.arange(size, device=sample_BL.device)[:, None]
        _, sizes = torch.unique_consecutive(sample_BL[chosen_positions(batch, self.positions)], return_counts=True)
        return sizes.tolist()


def _cka_total(student_ND: Tensor, teacher_NE: Tensor, sample_sizes: list[int]) -> Tensor:
    total = student_ND[:0].sum()  # zero, with the graph of the student
    for student_nD, teacher_nE in zip(student_ND.split(sample_sizes), teacher_NE.split(sample_sizes), strict=True):
        if student_nD.shape[0] >= FEWEST_FOR_CKA:
            similarity = debiased_cka(student_nD=student_nD, teacher_nE=teacher_nE)
            total = total + student_nD.shape[0] * (1.0 - similarity)
    return total

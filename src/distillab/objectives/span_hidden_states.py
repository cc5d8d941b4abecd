"""Distance between the hidden states of mapped layers, span by span, for two tokenisations of the same text.

Shape letters: B sequences, L positions, S spans of the batch, U those that are shared, D and E widths
of student and teacher.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from distillab.config.layer_terms import Positions, SpanHiddenStatesConfig
from distillab.errors import ShapeError
from distillab.models.activations import Activations
from distillab.models.aligned_positions import require_alignment
from distillab.models.batch import TokenBatch
from distillab.models.structure import ModelShape
from distillab.objectives.layer_states import LayerStatesTerm
from distillab.objectives.similarity import unit_rms


class SpanHiddenStates(LayerStatesTerm, config=SpanHiddenStatesConfig):
    """Pull the student's state of a span towards the teacher's state of the same span, at mapped layers.

        h(c) = mean of ĥ(t) over the tokens t of the span c,   or ĥ of its last token;   ĥ = h / rms(h)

    compared by the losses of `hidden_states` (see there), averaged over the mapped pairs. The unit is a span of bytes
    whose borders both tokenisations share and whose tokens are all in the answer.

    A state is read at its own token: h(t) has read t, so both models have read the text up to the span's end for the
    last token, and the span's text piece by piece for the mean. (`hidden_states` reads the states that
    *predict* an answer token, one place before. Here the last token of the answer counts and the last one of the
    prompt does not.) States are normalised before they are averaged, since a token with a huge state would dominate the
    mean; the mean is normalised again.

    Args:
        settings: layers, loss, pooling and projector.
        student, teacher: sizes of the two models.
    Raises:
        ConfigError: see `LayerStatesTerm`.
    Source: new, for spans; losses and projector as in `hidden_states`. Minixhofer et al. 2025 (arXiv:2503.20083)
        compare states of aligned chunks too, at the last byte of each, through a projector that starts at random.
    """

    positions: Positions = "all"  # a state is read at its own token, not where that token is predicted

    def __init__(self, settings: SpanHiddenStatesConfig, *, student: ModelShape, teacher: ModelShape) -> None:
        super().__init__(settings, student=student, teacher=teacher)
        self.pooling = settings.pooling

    def count(self, batch: TokenBatch) -> int:
        """Count the spans that student and teacher score."""
        return int(require_alignment(batch).shared_S.sum())

    def states(
        self, pair: tuple[int, int], student: Activations, teacher: Activations, batch: TokenBatch
    ) -> tuple[Tensor, Tensor]:
        """Return (U, D) and (U, E) float32 of the spans, on the student's device; the teacher's detached.

        Raises:
            ShapeError: the states do not belong to the batch.
        """
        shared = require_alignment(batch).shared_S
        student_BLD, teacher_BLE = student.hidden[pair[0]], teacher.hidden[pair[1]].detach()
        student_UD = pooled(student_BLD, batch, shared, pooling=self.pooling)
        teacher_UE = pooled(teacher_BLE, batch["teacher"], shared, pooling=self.pooling)
        return student_UD, teacher_UE.to(student_UD.device)


def pooled(states_BLD: Tensor, batch: TokenBatch, shared: Tensor, *, pooling: Literal["mean", "last"]) -> Tensor:
    """Pool (U, D) one state for each of the wanted spans, in the order of their numbers, float32.

    Every token's state is divided by its root mean square first. Padding and other tokens are not read.

    Args:
        states_BLD: (B, L, D) at the tokens of one model, on any device.
        batch: the batch as that model reads it.
        shared: (S,) bool, the wanted spans, as of `Alignment.shared_S`.
        pooling: the mean over a span's tokens, or its last one.
    Raises:
        ShapeError: the states do not belong to the batch.
    """
    spans_BL = batch["spans"]
    if states_BLD.shape[:2] != spans_BL.shape:
        raise ShapeError(
            "Hidden states and batch do not fit together.",
            facts=[f"states {tuple(states_BLD.shape)}", f"batch {tuple(spans_BL.shape)}"],
        )
    wanted_BL = (spans_BL >= 0) & shared[spans_BL.clamp(min=0)]
    if pooling == "last":
        following_BL = torch.nn.functional.pad(spans_BL[:, 1:], (0, 1), value=-1)
        wanted_BL = wanted_BL & (spans_BL != following_BL)
    place_S = shared.cumsum(0) - 1
    place_T = place_S[spans_BL[wanted_BL]].to(states_BLD.device)
    states_TD = unit_rms(states_BLD[wanted_BL.to(states_BLD.device)].float())
    sums_UD = states_TD.new_zeros(int(shared.sum()), states_TD.shape[1]).index_add(0, place_T, states_TD)
    tokens_U = torch.bincount(place_T, minlength=sums_UD.shape[0])
    return sums_UD / tokens_U[:, None]

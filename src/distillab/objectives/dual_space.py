"""Dual-space distillation (DSKD): projected states, cross-model attention, and both heads.

Shape letters: B sequences, L positions; N, M scored positions of student and teacher; n, m those of them that take
part; D, E widths, V, W vocabularies of student and teacher; U spans of the warm-up batch.
"""

from __future__ import annotations

from typing import Self, cast

import torch
from torch import Tensor

from distillab.config.layer_terms import Positions
from distillab.config.terms import DualSpaceConfig, TokenDivergenceConfig
from distillab.errors import NumericsError
from distillab.models.activations import ActivationSpec
from distillab.models.aligned_positions import require_alignment
from distillab.models.batch import TokenBatch
from distillab.models.heads import OutputHead
from distillab.models.scoring import at_scored, scored_positions, scored_targets
from distillab.models.structure import ModelShape
from distillab.objectives.build import TermContext
from distillab.objectives.chunked_loss import ChunkedLoss
from distillab.objectives.cross_attention import CrossLayout, attend, cross_layout
from distillab.objectives.cross_entropy import CrossEntropy
from distillab.objectives.projector import least_squares
from distillab.objectives.shared_ids import require_fitting
from distillab.objectives.similarity import unit_rms
from distillab.objectives.term import HeadTerm, ModelOutputs, StudentScores, TeacherScores, TokenTerm
from distillab.objectives.token_divergence import TokenDivergence
from distillab.teachers.signals import Distribution, HeadInputs


class DualSpace(HeadTerm, config=DualSpaceConfig):
    """Dual-space distillation with cross-model attention (DSKD).

        Q_i = P_q [ê_s(x_i); ê_s(y_i)],   K_j = [ê_t(x_j); ê_t(y_j)],   A = Q Kᵀ / √(2E)
        h^{t→s}_i = Σ_j softmax_j(A_ij) P_ts (ĥ_t(j) + ê_t(y_j)),   p^{t→s} = student's head of it
        h^{s→t}_j = Σ_i softmax_i(A_ij) P_st h_s(i),                q^{s→t} = teacher's head of it
        value = Σ_i −log p^{t→s}_i(y_i) + Σ_i [y_i = argmax p^{t→s}_i] KL_T(p^{t→s}_i ‖ q_i) + Σ_j KL_T(p_j ‖ q^{s→t}_j)

    At a scored position x is the last token read and y the one to be predicted; e the embedding that a model's first
    block reads there, h its last hidden state, q and p the student's and the teacher's distributions; v̂ is v divided
    by its root mean square; KL_T is that of both logits divided by T, without T². Nats.

    What each part trains: the first (at T = 1) P_q and P_ts alone; the second the student alone, with its head;
    the third the student's body, P_st and P_q. Embeddings and the student's head within p^{t→s} are detached,
    p^{t→s} is within the second part, and the teacher is frozen: else the student's head would learn to read the
    teacher's states.

    The unit of the count is a position of the student. All three sums are divided by it, the third too: it is then in
    nats a student token, and no split of a step changes it. A position takes part if the token that it predicts lies in
    a shared span.

    Leaks: y_i and y_j are read on purpose, to find each other; p^{t→s}_i must not depend on a *later* token, and
    the states in q^{s→t}_j must not have read y_j itself: the student would learn to repeat what it has just read
    instead of to predict it. With attention "full", as published, both happen: every position attends to the whole
    answer. With "causal" the student's position attends to the teacher's up to the end of its own span, and the
    teacher's to states of the student that have read no more text than it has (see `cross_layout`). One leak is in the
    formula itself: the weights in q^{s→t}_j depend on y_j, and can find a state that has read the same token earlier.

    Args:
        settings: temperature T, attention and the projectors' learning rate.
        student, teacher: sizes of the two models.
        student_width, teacher_width: ids of the tokenizers; further rows of the logits get no probability in the
            divergences.
    Source: Zhang et al. 2024, DSKD (arXiv:2406.17328), section 3 and 4, and its code for the detachments, the values
        and the mask of right tokens. We differ: attention is causal by default; states are scaled token by token, not
        by the microbatch's standard deviation, which a split would change, and the student's embeddings too; tokens in
        no shared span take no part; the projectors start from least squares on a warm-up batch, not at random.
    """

    positions: Positions = "all"  # embeddings are read at their own tokens, the last one of the answer too

    def __init__(
        self,
        settings: DualSpaceConfig,
        *,
        student: ModelShape,
        teacher: ModelShape,
        student_width: int,
        teacher_width: int,
    ) -> None:
        self.settings = settings
        self.score_request = Distribution(teacher_width, settings.temperature)
        self.student_activations = self.teacher_activations = ActivationSpec(hidden=frozenset({0}))
        self.projector: torch.nn.Module | None = torch.nn.ModuleDict(
            {
                "query": _linear(2 * student.width, 2 * teacher.width),
                "to_student": _linear(teacher.width, student.width),
                "to_teacher": _linear(student.width, teacher.width),
            }
        )
        self.projector_learning_rate = settings.projector_learning_rate
        divergence = TokenDivergenceConfig(temperature=settings.temperature)
        self._in_student_space = _WhereTeacherIsRight(divergence, shared_width=student_width)
        self._in_teacher_space = TokenDivergence(divergence, shared_width=teacher_width)

    @classmethod
    def from_config(cls, settings: DualSpaceConfig, context: TermContext) -> Self:
        """Build the term for the two models of `context`."""
        student, teacher = context.require_shapes(settings.kind)
        both = context.require_vocabularies(settings.kind)
        return cls(
            settings,
            student=student,
            teacher=teacher,
            student_width=both.student_width,
            teacher_width=both.teacher_width,
        )

    def count(self, batch: TokenBatch) -> int:
        """Count the student's scored tokens in spans that student and teacher score."""
        alignment = require_alignment(batch)
        return int(alignment.student.inside(alignment.shared_S).sum())

    def total(self, student: ModelOutputs, teacher: ModelOutputs, batch: TokenBatch) -> Tensor:
        """Return () nats, float32, on the student's device; connected to all that learns, even without positions.

        Args:
            student: its outputs, with their graph; embeddings (B, L, D) in `activations.hidden[0]`.
            teacher: its outputs, on any device.
            batch: of two tokenisations.
        Raises:
            ShapeError: the batch has no spans, or logits have fewer ids than the tokenizers.
        """
        device = student.hidden_ND.device
        layout = cross_layout(batch, causal=self.settings.attention == "causal")
        student_N, teacher_M = layout.student.kept_N, layout.teacher.kept_N
        student_nD = student.hidden_ND[student_N.to(device)]
        # bfloat16 autocast would round the scores of the attention
        with torch.autocast(device.type, enabled=False):
            in_student_nD, in_teacher_mE = self._projected(student, teacher, batch, layout)
        head = _detached(student.head)
        seen_nD = in_student_nD.detach().to(head.weight_VD.dtype)
        targets_n = scored_targets(batch)[student_N]
        targets_m = scored_targets(batch["teacher"])[teacher_M]
        scores = HeadInputs(teacher.hidden_ND[teacher_M.to(teacher.hidden_ND.device)], teacher.head)
        parts = (
            _nats(CrossEntropy(), head, in_student_nD, targets_n, None),
            _nats(self._in_student_space, student.head, student_nD, targets_n, HeadInputs(seen_nD, head)),
            _nats(self._in_teacher_space, _detached(teacher.head), in_teacher_mE, targets_m, scores),
        )
        return torch.stack([part.to(device) for part in parts]).sum()

    @torch.no_grad()
    def initialise(self, student: ModelOutputs, teacher: ModelOutputs, batch: TokenBatch) -> None:
        """Fit the projectors to where both models predict the same next span of one batch.

        Queries then find the teacher's position with the same two tokens, and each model's projected states are near
        the other's states.

        Raises:
            NumericsError: the batch has no shared span, or states that cannot be fitted.
        """
        alignment = require_alignment(batch)
        shared = alignment.shared_S
        if not bool(shared.any()):
            raise NumericsError(
                "The term dual_space cannot be initialised: the warm-up batch has no span that both models score.",
                facts=[f"{batch['input_ids'].shape[0]} sequences"],
                fix="check the answers of the first rows: they may be truncated away in one tokenisation",
            )
        device = student.hidden_ND.device
        student_U, teacher_U = alignment.student.first_S[shared], alignment.teacher.first_S[shared]
        student_N, teacher_M = (
            torch.ones_like(scored_targets(side), dtype=torch.bool) for side in (batch, batch["teacher"])
        )
        index_N = torch.cat(_tokens(student, batch, student_N, device), dim=-1)
        key_M, value_M = _keys_and_values(teacher, batch["teacher"], teacher_M, device)
        hidden_N, hidden_M = student.hidden_ND.float(), teacher.hidden_ND.float().to(device)
        for name, inputs, outputs in (
            ("query", index_N[student_U.to(device)], key_M[teacher_U.to(device)]),
            ("to_student", value_M[teacher_U.to(device)], hidden_N[student_U.to(device)]),
            ("to_teacher", hidden_N[student_U.to(device)], hidden_M[teacher_U.to(device)]),
        ):
            self._map(name).weight.copy_(least_squares(student_ND=inputs, teacher_NE=outputs))

    def _projected(
        self, student: ModelOutputs, teacher: ModelOutputs, batch: TokenBatch, layout: CrossLayout
    ) -> tuple[Tensor, Tensor]:
        """Return (n, D) h^{t→s} and (m, E) h^{s→t}, float32, on the student's device."""
        device = student.hidden_ND.device
        student_N, teacher_M = layout.student.kept_N, layout.teacher.kept_N
        index_n = torch.cat(_tokens(student, batch, student_N, device), dim=-1)
        key_m, value_m = _keys_and_values(teacher, batch["teacher"], teacher_M, device)
        return attend(
            layout,
            query_nX=self._apply("query", index_n),
            key_mX=key_m,
            teacher_values_mD=self._apply("to_student", value_m),
            student_values_nE=self._apply("to_teacher", student.hidden_ND[student_N.to(device)].float()),
        )

    def _map(self, name: str) -> torch.nn.Linear:
        return cast(torch.nn.Linear, cast(torch.nn.Module, self.projector).get_submodule(name))

    def _apply(self, name: str, states: Tensor) -> Tensor:
        linear = self._map(name)
        return torch.nn.functional.linear(states, linear.weight.float(), linear.bias.float())


class _WhereTeacherIsRight(TokenDivergence):
    """The divergence at positions where the target's most likely token is the one that follows; 0 elsewhere."""

    def per_position(self, student: StudentScores, signal: TeacherScores | None) -> Tensor:
        """Return (N,) nats."""
        teacher = require_fitting(student, signal, width=self.shared_width, term=DualSpace.name)
        likeliest_N = teacher.logp(self.shared_width, self.settings.temperature).argmax(dim=-1)
        nats_N = super().per_position(student, signal)
        return torch.where(likeliest_N == student.targets_N, nats_N, torch.zeros_like(nats_N))


def _nats(
    term: TokenTerm, head: OutputHead, hidden_ND: Tensor, targets_N: Tensor, teacher: HeadInputs | None
) -> Tensor:
    """Return () the term's sum over positions where a head is applied to states, chunk by chunk."""
    device = head.weight_VD.device
    work = ChunkedLoss(head, targets_N.to(device), teacher, terms={term.name: term}, factors={term.name: 1.0})
    return work.loss(hidden_ND.to(device))


def _tokens(end: ModelOutputs, side: TokenBatch, kept_N: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return (n, X) scaled embeddings of the tokens read last and of those to predict, float32, detached."""
    embeddings_BLX = end.activations.hidden[0].detach()
    here = embeddings_BLX.device
    next_NX = embeddings_BLX[:, 1:][scored_positions(side).to(here)]
    read, following = (
        unit_rms(e[kept_N.to(here)].float()).to(device) for e in (at_scored(embeddings_BLX, side), next_NX)
    )
    return read, following


def _keys_and_values(
    teacher: ModelOutputs, side: TokenBatch, kept_M: Tensor, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return (m, 2E) and (m, E) float32, detached."""
    read_mE, following_mE = _tokens(teacher, side, kept_M, device)
    hidden_mE = teacher.hidden_ND.detach()[kept_M.to(teacher.hidden_ND.device)]
    return torch.cat([read_mE, following_mE], dim=-1), unit_rms(hidden_mE.float()).to(device) + following_mE


def _detached(head: OutputHead) -> OutputHead:
    bias_V = None if head.bias_V is None else head.bias_V.detach()
    return OutputHead(head.weight_VD.detach(), bias_V, head.multiplier, head.cap)


def _linear(inputs: int, outputs: int) -> torch.nn.Linear:
    linear = torch.nn.Linear(inputs, outputs, dtype=torch.float32)
    torch.nn.init.orthogonal_(linear.weight)
    torch.nn.init.zeros_(linear.bias)
    return linear

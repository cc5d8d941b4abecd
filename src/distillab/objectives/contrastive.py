"""Contrastive loss (InfoNCE) between the states of the same span in both models.

Shape letters: B sequences, L and M positions of student and teacher, D and E their widths, S spans that both
models score, G samples of the microbatch, P spans of the longest one, Q places of the queue, W width of the shared
space.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Self, cast

import torch
from torch import Tensor

from distillab.config.layer_terms import ContrastiveConfig, Positions
from distillab.errors import NumericsError
from distillab.models.activations import Activations, ActivationSpec
from distillab.models.aligned_positions import require_alignment
from distillab.models.batch import TokenBatch
from distillab.models.structure import ModelShape
from distillab.objectives.build import TermContext
from distillab.objectives.layer_maps import layer_pairs
from distillab.objectives.projector import Pair, least_squares, pair_name
from distillab.objectives.span_hidden_states import pooled
from distillab.objectives.span_layout import SpanLayout, span_layout
from distillab.objectives.span_queue import SpanQueue, span_key
from distillab.objectives.term import ActivationTerm

START_OF_LEARNED_TEMPERATURE = 0.07
LARGEST_SCALE = 100.0  # of the similarities, that is 1 / temperature


class Contrastive(ActivationTerm, config=ContrastiveConfig):
    """Cross-entropy of finding a span's own state in the other model among the states of other spans (InfoNCE).

        u_c = P_s s_c / ‖P_s s_c‖,  v_c = P_t t_c / ‖P_t t_c‖,  s_c and t_c the means over span c's tokens of h / rms(h)
        forth_c = −log  e^(u_c·v_c/τ) / ( e^(u_c·v_c/τ) + Σ_{o in row, queue} e^(u_c·v_o/τ) )
        back_c  = −log  e^(u_c·v_c/τ) / ( e^(u_c·v_c/τ) + Σ_{o in row} e^(u_o·v_c/τ) )
        value_c = ½ (forth_c + back_c),  averaged over the mapped pairs of layers; nats

    The unit is a span whose tokens are scored for both models. The two tokenisations, the lengths and the widths may
    differ.

    Negatives are the spans of the same row, which are the hard ones: same topic, same style, same context. `forth` also
    has the teacher's spans of earlier optimizer steps, as many as the queue holds. Other rows of the microbatch are no
    negatives: a row's value would depend on how the step is split. The student's earlier spans are of an outdated
    student, so `back` has no queue. The queue takes the spans of a step when the step is over, from all microbatches
    and processes, in the order of their rows; so it is the same however the step is split.

    Two spans with the same tokens of the teacher are never negatives of each other, in the row or in the queue: the
    same word at another place has nearly the same state, and a repeated row would be pushed away from itself.

    With n different spans in a row and an empty queue the value is log(1 + (n−1) e^(−1/τ)) if the pairs match and the
    spans are orthogonal; it is on average never below log(1 + (n−1) e^(−n/((n−1)τ))), the value of a regular simplex.
    A span without negatives has the value 0, and counts.

    Args:
        settings: layers, width, temperature and queue.
        student: sizes of the student.
        teacher: sizes of the teacher.
    Raises:
        ConfigError: a layer that a model does not have.
    Source: new here. InfoNCE: van den Oord et al. 2018 (arXiv:1807.03748); of a student's against a teacher's states:
        Tian et al. 2020, CRD (arXiv:1910.10699), which compares whole images; the queue: He et al. 2020, MoCo
        (arXiv:1911.05722); both directions and the learned temperature: Radford et al. 2021, CLIP (arXiv:2103.00020).
        None of them compares spans, and their negatives are those of the batch.
    """

    positions: Positions = "all"  # a state is read at its own token, not where that token is predicted

    def __init__(self, settings: ContrastiveConfig, *, student: ModelShape, teacher: ModelShape) -> None:
        self.settings = settings
        self.pairs = layer_pairs(settings.layers, student_blocks=student.blocks, teacher_blocks=teacher.blocks)
        self.student_activations = ActivationSpec(hidden=frozenset(pair[0] for pair in self.pairs))
        self.teacher_activations = ActivationSpec(hidden=frozenset(pair[1] for pair in self.pairs))
        self.projector_learning_rate = settings.projector_learning_rate
        self.projector: torch.nn.Module | None = torch.nn.ModuleDict(
            {pair_name(pair): _SpanHeads(settings, student.width, teacher.width) for pair in self.pairs}
        )
        self._staged: dict[Pair, list[tuple[Tensor, Tensor, Tensor]]] = {pair: [] for pair in self.pairs}

    @classmethod
    def from_config(cls, settings: ContrastiveConfig, context: TermContext) -> Self:
        """Build the term for the two models of `context`."""
        student, teacher = context.require_shapes(settings.kind)
        return cls(settings, student=student, teacher=teacher)

    def heads(self, pair: Pair) -> _SpanHeads:
        """Build the layers that learn, and the queue, for a pair of layers."""
        return cast(_SpanHeads, cast(torch.nn.Module, self.projector).get_submodule(pair_name(pair)))

    def count(self, batch: TokenBatch) -> int:
        """Count the spans that student and teacher score."""
        return int(require_alignment(batch).shared_S.sum())

    def total(self, student: Activations, teacher: Activations, batch: TokenBatch) -> Tensor:
        """Return () the sum over the spans of a microbatch, float32; connected to all that learns, even without spans.

        The teacher's spans are kept for the queue, until `end_step`.

        Args:
            student: hidden states at `student_activations`, (B, L, D) each, with their graph.
            teacher: hidden states at `teacher_activations`, (B, M, E) each, on any device and in any dtype.
            batch: of two tokenisations.
        Raises:
            ShapeError: the states do not belong to the batch, or the batch has no spans.
        """
        layout = span_layout(batch)
        parts = []
        for pair in self.pairs:
            student_SD, teacher_SE = _means(pair, student, teacher, batch, layout)
            heads = self.heads(pair)
            # bfloat16 autocast would round the similarities, which are divided by a small temperature
            with torch.autocast(student_SD.device.type, enabled=False):
                parts.append(heads(student_SD, teacher_SE, layout).sum())
            if heads.queue is not None:
                self._staged[pair].append((span_key(layout.row_S, layout.place_S), layout.text_S, teacher_SE))
        return torch.stack(parts).mean()

    @torch.no_grad()
    def initialise(self, student: Activations, teacher: Activations, batch: TokenBatch) -> None:
        """Fit the student's heads to the output of the teacher's random heads, on the spans of one batch.

        Then the first gradients are not spent on a rotation that the head has to find.

        Raises:
            NumericsError: the batch has no shared span, or states that cannot be fitted.
        """
        layout = span_layout(batch)
        if not layout.row_S.numel():
            raise NumericsError(
                "The term contrastive cannot be initialised: the warm-up batch has no span that both models score.",
                facts=[f"{batch['input_ids'].shape[0]} sequences"],
                fix="check the answers of the first rows: they may be truncated away in one tokenisation",
            )
        for pair in self.pairs:
            student_SD, teacher_SE = _means(pair, student, teacher, batch, layout)
            heads = self.heads(pair)
            target_SW = _unit(teacher_SE @ heads.teacher.weight.float().T)
            heads.student.weight.copy_(least_squares(student_ND=student_SD, teacher_NE=target_SW))

    @torch.no_grad()
    def end_step(self, gather: Callable[[Tensor], Tensor]) -> None:
        """Put the step's spans into the queue, and keep a learned temperature in its bounds.

        Called after the last microbatch of every optimizer step.

        Args:
            gather: (n, …) of each process -> those of all processes, one after another; n may differ.
        """
        for pair in self.pairs:
            heads, staged = self.heads(pair), self._staged[pair]
            if heads.queue is not None and staged:
                key_n, text_n, states_nE = (gather(torch.cat(parts)) for parts in zip(*staged, strict=True))
                heads.queue.put(key_n=key_n, text_n=text_n, states_nE=states_nE)
            staged.clear()
            if isinstance(heads.log_scale, torch.nn.Parameter):
                # the gradient is 0 at the bound: a parameter beyond it would never come back
                heads.log_scale.clamp_(0.0, math.log(LARGEST_SCALE))


class _SpanHeads(torch.nn.Module):
    """Both heads, the temperature and the queue of one pair of layers."""

    def __init__(self, settings: ContrastiveConfig, student_width: int, teacher_width: int) -> None:
        super().__init__()
        self.student = _head(student_width, settings.width)
        self.teacher = _head(teacher_width, settings.width)
        self.queue = SpanQueue(settings.queue, teacher_width) if settings.queue else None
        self.log_scale: torch.nn.Parameter | float
        if settings.temperature == "learned":
            self.log_scale = torch.nn.Parameter(torch.tensor(-math.log(START_OF_LEARNED_TEMPERATURE)))
        else:
            self.log_scale = -math.log(settings.temperature)

    def scale(self) -> Tensor | float:
        """Return 1 / τ."""
        if isinstance(self.log_scale, float):
            return math.exp(self.log_scale)
        return self.log_scale.float().clamp(0.0, math.log(LARGEST_SCALE)).exp()

    def forward(self, student_SD: Tensor, teacher_SE: Tensor, layout: SpanLayout) -> Tensor:
        """Compute (S,) nats."""
        # scaled before anything is masked by −∞, which a gradient must not be multiplied with
        student_SW = self.scale() * _unit(student_SD @ self.student.weight.float().T)
        teacher_weight_EW = self.teacher.weight.float().T
        teacher_SW = _unit(teacher_SE @ teacher_weight_EW)
        forth_SP, back_SP, other_SP = _within_samples(student_SW, teacher_SW, layout)
        own_S1 = (student_SW * teacher_SW).sum(dim=-1, keepdim=True)
        forth = [own_S1, forth_SP.masked_fill(~other_SP, -math.inf)]
        back = [own_S1, back_SP.masked_fill(~other_SP, -math.inf)]
        if self.queue is not None:
            queue_SQ = student_SW @ _unit(self.queue.states_QE @ teacher_weight_EW).T
            other_SQ = self.queue.filled_Q & (self.queue.text_Q != layout.text_S.to(student_SD.device)[:, None])
            forth.append(queue_SQ.masked_fill(~other_SQ, -math.inf))
        nats_S = torch.zeros_like(own_S1[:, 0])
        for candidates in (forth, back):
            nats_S = nats_S + 0.5 * (torch.cat(candidates, dim=1).logsumexp(dim=1) - own_S1[:, 0])
        return nats_S


def _within_samples(student_SW: Tensor, teacher_SW: Tensor, layout: SpanLayout) -> tuple[Tensor, Tensor, Tensor]:
    """Return the products of each span with the spans of its sample.

    Returns:
        (S, P) of its state in the student with those of the teacher; (S, P) of its state in the teacher with those of
        the student; (S, P) bool, True where there is another span, of another text.
    """
    device = student_SW.device
    sample_S, place_S, text_S = (tensor.to(device) for tensor in (layout.sample_S, layout.place_S, layout.text_S))
    samples, longest = (int(tensor.max()) + 1 if tensor.numel() else 0 for tensor in (sample_S, place_S))
    where = (sample_S, place_S)
    student_GPW, teacher_GPW = (
        unit_SW.new_zeros(samples, longest, unit_SW.shape[1]).index_put(where, unit_SW)
        for unit_SW in (student_SW, teacher_SW)
    )
    text_GP = text_S.new_zeros(samples, longest).index_put(where, text_S)
    there_GP = torch.zeros_like(text_GP, dtype=torch.bool)
    there_GP[where] = True
    product_GPP = student_GPW @ teacher_GPW.transpose(1, 2)
    other_SP = there_GP[sample_S] & (text_GP[sample_S] != text_S[:, None])
    return product_GPP[where], product_GPP.transpose(1, 2)[where], other_SP


def _means(
    pair: Pair, student: Activations, teacher: Activations, batch: TokenBatch, layout: SpanLayout
) -> tuple[Tensor, Tensor]:
    """Return (S, D) and (S, E) float32 on the student's device; the teacher's detached."""
    student_SD = pooled(student.hidden[pair[0]], batch, layout.kept_A, pooling="mean")
    teacher_SE = pooled(teacher.hidden[pair[1]].detach(), batch["teacher"], layout.kept_A, pooling="mean")
    return student_SD, teacher_SE.to(student_SD.device)


def _unit(states: Tensor) -> Tensor:
    return torch.nn.functional.normalize(states, dim=-1)


def _head(width: int, shared_width: int) -> torch.nn.Linear:
    linear = torch.nn.Linear(width, shared_width, bias=False, dtype=torch.float32)
    torch.nn.init.orthogonal_(linear.weight)
    return linear

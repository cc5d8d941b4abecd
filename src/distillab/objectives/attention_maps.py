"""Attention distributions of mapped blocks, as the models themselves compute them.

Shape letters: B sequences, L positions, H heads, N chosen positions in row order.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from distillab.config.layer_terms import AttentionMapsConfig
from distillab.divergences import forward_kl
from distillab.errors import ConfigError
from distillab.models.activations import Activations, ActivationSpec
from distillab.models.batch import TokenBatch
from distillab.models.structure import ModelShape
from distillab.models.visibility import visible
from distillab.objectives.build import TermContext
from distillab.objectives.layer_maps import layer_pairs
from distillab.objectives.positions import chosen_positions
from distillab.objectives.term import ActivationTerm


class AttentionMaps(ActivationTerm, config=AttentionMapsConfig):
    """Attention KL: the student's attention distributions are pulled towards the teacher's.

        value(t) = mean over blocks and heads a of KL(A^teacher(a, t, ·) ‖ A^student(a, t, ·))

    A are the softmax probabilities of a block, after rotary embeddings, over the positions that t can read. With
    heads: mean each model's maps are first averaged over its heads. The unit is a chosen position, the value in nats.
    Both models must form their maps: see `models.attention.require_maps`.

    Args:
        settings: layers, heads and positions.
        student: sizes of the student.
        teacher: sizes of the teacher.
    Raises:
        ConfigError: a block that a model does not have; heads: matched with unequal numbers of heads.
    Source: Wang et al. 2020, MiniLM (arXiv:2002.10957), L_AT, for encoders and the last block; the causal mask and
        other layer maps are new here.
    """

    def __init__(self, settings: AttentionMapsConfig, *, student: ModelShape, teacher: ModelShape) -> None:
        if settings.heads == "matched" and student.heads != teacher.heads:
            raise ConfigError(
                "Attention heads can be matched one to one only if both models have the same number.",
                where="attention_maps, heads: matched",
                facts=[f"student heads {student.heads}", f"teacher heads {teacher.heads}"],
                fix="write heads: mean, or use attention_relations",
            )
        self.settings = settings
        self.positions = settings.positions
        self.pairs = layer_pairs(settings.layers, student_blocks=student.blocks, teacher_blocks=teacher.blocks)
        self.student_activations = ActivationSpec(maps=frozenset(pair[0] for pair in self.pairs))
        self.teacher_activations = ActivationSpec(maps=frozenset(pair[1] for pair in self.pairs))

    @classmethod
    def from_config(cls, settings: AttentionMapsConfig, context: TermContext) -> Self:
        """Build the term for the two models of `context`."""
        student, teacher = context.require_attention(settings.kind)
        return cls(settings, student=student, teacher=teacher)

    def count(self, batch: TokenBatch) -> int:
        """Count the chosen positions of the microbatch."""
        return int(chosen_positions(batch, self.positions).sum())

    def total(self, student: Activations, teacher: Activations, batch: TokenBatch) -> Tensor:
        """Return () the sum over the chosen positions, in nats, float32.

        Args:
            student: maps at `student_activations`, with their graph.
            teacher: maps at `teacher_activations`, on any device and in any dtype.
            batch: the batch that both models have read.
        """
        device = student.maps[self.pairs[0][0]].device
        chosen_BL = chosen_positions(batch, self.positions).to(device)
        hidden_NL = ~visible(batch).to(device)[chosen_BL]
        sums: list[Tensor] = []
        for student_block, teacher_block in self.pairs:
            student_NHL = self._rows(student.maps[student_block], chosen_BL)
            teacher_NHL = self._rows(teacher.maps[teacher_block].detach().to(device), chosen_BL)
            values = forward_kl(
                student_logp=_logp(student_NHL, hidden_NL).flatten(0, 1),
                teacher_logp=_logp(teacher_NHL, hidden_NL).flatten(0, 1),
            )
            sums.append(values.sum() / student_NHL.shape[1])
        return torch.stack(sums).sum() / len(sums)

    def _rows(self, map_BHLL: Tensor, chosen_BL: Tensor) -> Tensor:
        """Return (N, H, L) float32 rows of the chosen positions; H is 1 where heads are averaged."""
        rows_NHL = map_BHLL.transpose(1, 2)[chosen_BL].float()
        return rows_NHL.mean(dim=1, keepdim=True) if self.settings.heads == "mean" else rows_NHL


def _logp(rows_NHL: Tensor, hidden_NL: Tensor) -> Tensor:
    """Return (N, H, L) log-probabilities; −inf where the position must not be read.

    A probability below float32's smallest normal number, as a sliding window gives, is replaced by that number: its
    logarithm, and so the divergence, stays finite (−87), and it has no gradient. Rows are divided by their sum, which
    is not exactly 1 in half precision.
    """
    hidden = hidden_NL[:, None]
    # filled before the logarithm: the gradient of log at 0 is infinite, and times zero it is NaN
    log = rows_NHL.masked_fill(hidden, 1.0).clamp(min=torch.finfo(torch.float32).tiny).log()
    total = rows_NHL.sum(dim=-1, keepdim=True)
    return (log - total.log()).masked_fill(hidden, -torch.inf)

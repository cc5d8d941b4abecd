"""Relations between the queries, the keys and the values of mapped blocks.

Shape letters: B sequences, L positions, E width of a projection, A relation heads, n rows of a chunk, m its keys.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from distillab.config.layer_terms import AttentionRelationsConfig, Relation
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

_MOST_HEADS = 16
# Entries of a chunk, A · n · m: small enough for a core's cache, large enough to keep a GPU busy.
_CHUNK_ENTRIES = {"cpu": 2**18}
_CHUNK_ENTRIES_ELSEWHERE = 2**24


class AttentionRelations(ActivationTerm, config=AttentionRelationsConfig):
    """Relation KL: the student's relations between positions are pulled towards the teacher's, for any heads.

        R_X(a, t, ·) = softmax_s( x_at · x_as / √d ),   over the positions s that t can read
        value(t) = mean over blocks, relations X and relation heads a of KL(R_X^teacher(a, t, ·) ‖ R_X^student(a, t, ·))

    x are the queries, keys or values of a block before rotary embeddings, all heads concatenated, split again into A
    relation heads of width d = E / A. E and d may differ between the models; A is the same. The unit is a chosen
    position, the value in nats.

    Args:
        settings: layers, relations, relation heads and positions.
        student: sizes of the student.
        teacher: sizes of the teacher.
    Raises:
        ConfigError: a block that a model does not have; a number of relation heads that does not divide the widths.
    Source: Wang et al. 2021, MiniLMv2 (arXiv:2012.15828), for encoders; the causal mask is new here.
    """

    def __init__(self, settings: AttentionRelationsConfig, *, student: ModelShape, teacher: ModelShape) -> None:
        self.settings = settings
        self.positions = settings.positions
        self.pairs = layer_pairs(settings.layers, student_blocks=student.blocks, teacher_blocks=teacher.blocks)
        self.heads = _relation_heads(settings, student, teacher)
        self.student_activations = ActivationSpec(projections=frozenset(pair[0] for pair in self.pairs))
        self.teacher_activations = ActivationSpec(projections=frozenset(pair[1] for pair in self.pairs))

    @classmethod
    def from_config(cls, settings: AttentionRelationsConfig, context: TermContext) -> Self:
        """Build the term for the two models of `context`."""
        student, teacher = context.require_attention(settings.kind)
        return cls(settings, student=student, teacher=teacher)

    def count(self, batch: TokenBatch) -> int:
        """Count the chosen positions of the microbatch."""
        return int(chosen_positions(batch, self.positions).sum())

    def total(self, student: Activations, teacher: Activations, batch: TokenBatch) -> Tensor:
        """Return () the sum over the chosen positions, in nats, float32.

        Args:
            student: projections at `student_activations`, with their graph.
            teacher: projections at `teacher_activations`, on any device and in any dtype.
            batch: the batch that both models have read.
        """
        sums: list[Tensor] = []
        chunks: list[_Chunk] | None = None
        for student_block, teacher_block in self.pairs:
            for relation in self.settings.relations:
                student_BLE = getattr(student.projections[student_block], relation)
                teacher_BLE = getattr(teacher.projections[teacher_block], relation).detach()
                if chunks is None:
                    chosen_BL = chosen_positions(batch, self.positions)
                    chunks = _chunks(chosen_BL, visible(batch), heads=self.heads, device=student_BLE.device)
                sums.append(_relation_sum(student_BLE, teacher_BLE.to(student_BLE.device), self.heads, chunks))
        return torch.stack(sums).sum() / (len(sums) * self.heads)


def _relation_heads(settings: AttentionRelationsConfig, student: ModelShape, teacher: ModelShape) -> int:
    widths = [_width(shape, relation) for shape in (student, teacher) for relation in settings.relations]
    common = math.gcd(*widths)
    if settings.heads is None:
        return max(heads for heads in range(1, _MOST_HEADS + 1) if common % heads == 0)
    if common % settings.heads:
        raise ConfigError(
            "The number of relation heads must divide every width that is compared.",
            where=f"attention_relations, heads: {settings.heads}",
            facts=[
                f"{name} {relation}: {_width(shape, relation)}"
                for name, shape in (("student", student), ("teacher", teacher))
                for relation in settings.relations
            ],
            fix=f"leave heads out, or take a divisor of {common}",
        )
    return settings.heads


def _width(shape: ModelShape, relation: Relation) -> int:
    return (shape.heads if relation == "query" else shape.key_value_heads) * shape.head_width


@dataclass(frozen=True)
class _Chunk:
    """Some chosen rows of one sequence, and the range of keys that any of them can read.

    rows: (n,) counted from `first`. hidden: (n, m) bool, True where the row cannot read the key.
    """

    sequence: int
    first: int
    end: int
    rows: Tensor
    hidden: Tensor


def _chunks(chosen_BL: Tensor, visible_BLL: Tensor, *, heads: int, device: torch.device) -> list[_Chunk]:
    """Return the chosen rows in chunks of bounded size, without columns that no row can read."""
    # the plan is made on the CPU, so that a GPU is waited for once and not once a chunk
    chosen_BL, visible_BLL = chosen_BL.cpu(), visible_BLL.cpu()
    budget = _CHUNK_ENTRIES.get(device.type, _CHUNK_ENTRIES_ELSEWHERE)
    chunks: list[_Chunk] = []
    for sequence in range(chosen_BL.shape[0]):
        places = chosen_BL[sequence].nonzero()[:, 0]
        for rows in places.split(max(1, budget // (heads * chosen_BL.shape[1]))):
            readable = visible_BLL[sequence, rows]
            if rows.numel() == 0:
                continue
            end = int(rows[-1]) + 1
            first = int(readable.any(dim=0).nonzero()[0])
            hidden = ~readable[:, first:end]
            chunks.append(_Chunk(sequence, first, end, (rows - first).to(device), hidden.to(device)))
    return chunks


class _RelationSum(torch.autograd.Function):
    """Σ over chunks, relation heads and rows of the KL; the gradient is formed chunk by chunk in the forward pass.

    So only one chunk's relations are in memory at a time, and nothing of size A · L².
    """

    @staticmethod
    def forward(ctx: Any, student_BLE: Tensor, teacher_BLE: Tensor, heads: int, chunks: list[_Chunk]) -> Tensor:
        learns = ctx.needs_input_grad[0]
        total = torch.zeros((), device=student_BLE.device)
        gradient_BLE = torch.zeros(student_BLE.shape, device=student_BLE.device) if learns else None
        # autocast would multiply in half precision what was made float32 on purpose
        with torch.autocast(student_BLE.device.type, enabled=False):
            for chunk in chunks:
                stretch = (chunk.sequence, slice(chunk.first, chunk.end))
                teacher_logp = _relation_logp(_by_head(teacher_BLE[stretch], heads), chunk)
                leaf = _by_head(student_BLE[stretch], heads).requires_grad_(learns)
                with torch.set_grad_enabled(learns):
                    student_logp = _relation_logp(leaf, chunk)
                    value = forward_kl(student_logp=student_logp, teacher_logp=teacher_logp).sum()
                total += value.detach()
                if gradient_BLE is not None:
                    (gradient,) = torch.autograd.grad(value, leaf)
                    gradient_BLE[stretch] += gradient.transpose(0, 1).flatten(1)
        if gradient_BLE is not None:
            ctx.save_for_backward(gradient_BLE.to(student_BLE.dtype))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient_BLE,) = ctx.saved_tensors
        return gradient_BLE * grad_output.to(gradient_BLE.dtype), None, None, None


def _relation_sum(student_BLE: Tensor, teacher_BLE: Tensor, heads: int, chunks: list[_Chunk]) -> Tensor:
    return cast(Tensor, cast(Any, _RelationSum).apply(student_BLE, teacher_BLE, heads, chunks))


def _by_head(stretch: Tensor, heads: int) -> Tensor:
    """Copy (m, E) to a new (A, m, d) in float32, outside of any graph."""
    return stretch.detach().float().unflatten(-1, (heads, -1)).transpose(0, 1).clone()


def _relation_logp(x_Amd: Tensor, chunk: _Chunk) -> Tensor:
    """Return (A · n, m) log-probabilities; −inf where the row must not read."""
    rows_And = x_Amd[:, chunk.rows] / math.sqrt(x_Amd.shape[-1])
    scores_Anm = rows_And @ x_Amd.transpose(1, 2)
    # before the softmax: masked keys get no probability, and take none from the rest
    return torch.log_softmax(scores_Anm.masked_fill(chunk.hidden, -math.inf), dim=-1).flatten(0, 1)

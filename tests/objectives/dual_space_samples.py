"""Two toy models on rows in two toy tokenisations, and the term dual_space by loops over single positions, in float64.

Letters: D, E widths, V, W vocabularies of student and teacher; L positions of a row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from distillab.config.terms import DualSpaceConfig
from distillab.data.paired import PairedRow
from distillab.models.activations import Activations
from distillab.models.batch import TokenBatch
from distillab.models.heads import OutputHead
from distillab.models.scoring import at_scored
from distillab.models.structure import ModelShape
from distillab.objectives.dual_space import DualSpace
from distillab.objectives.term import ModelOutputs
from tests.objectives.toy_pair import ROWS as TOY_ROWS
from tests.objectives.toy_pair import STUDENT, TEACHER, TOY, collate, laid_out, numbers_for

D, E, V, W = 8, 6, len(STUDENT), len(TEACHER)
PADDED = 3  # rows of either head that no tokenizer uses

ByRow = dict[int, Tensor]


def _scored_later_by_the_teacher() -> PairedRow:
    """A row whose first span the student alone scores."""
    row = TOY.row(4, "b1", "abbc12 a")
    mask = row.teacher.answer_mask.copy()
    mask[mask.nonzero()[0][0]] = False
    return replace(row, teacher=replace(row.teacher, answer_mask=mask))


ROWS = [*TOY_ROWS, _scored_later_by_the_teacher()]


@dataclass(frozen=True)
class World:
    """Last hidden states and embeddings by row, heads; all learn, so that what gets no gradient can be seen."""

    student_hidden: ByRow
    student_embeddings: ByRow
    student_head: Tensor
    teacher_hidden: ByRow
    teacher_embeddings: ByRow
    teacher_head: Tensor

    def in_float64(self) -> World:
        """A copy, with leaves of its own."""

        def leaf(tensor: Tensor) -> Tensor:
            return tensor.detach().double().requires_grad_()

        found = {item.name: getattr(self, item.name) for item in fields(self)}
        return World(
            **{
                name: {row: leaf(t) for row, t in value.items()} if isinstance(value, dict) else leaf(value)
                for name, value in found.items()
            }
        )


def world(seed: int = 0) -> World:
    """The student's states lean towards the token that follows; embeddings stand for tokens."""
    generator = torch.Generator().manual_seed(seed)
    heads = [torch.randn(rows + PADDED, width, generator=generator) for rows, width in ((V, D), (W, E))]
    tables = [torch.randn(rows, width, generator=generator) for rows, width in ((V, D), (W, E))]
    found: list[Any] = []
    for teacher, head, table in ((False, heads[0], tables[0]), (True, heads[1], tables[1])):
        hidden = numbers_for(ROWS, seed=seed + 1, teacher=teacher, width=head.shape[1])
        embeddings = {}
        for row in ROWS:
            ids = torch.tensor((row.teacher if teacher else row.student).input_ids).long()
            embeddings[row.index] = (3.0 * table[ids]).requires_grad_()
            hidden[row.index][:-1] += 2.0 * head[ids[1:]]
            hidden[row.index].requires_grad_()
        found += [hidden, embeddings, head.requires_grad_()]
    return World(*found)


def dual_space_term(**settings: Any) -> DualSpace:
    torch.manual_seed(5)
    shapes = [ModelShape(2, width, 2, 2, 3) for width in (D, E)]
    term = DualSpace(
        DualSpaceConfig(**settings), student=shapes[0], teacher=shapes[1], student_width=V, teacher_width=W
    )
    assert term.projector is not None
    for parameter in term.projector.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # biases are 0 at first, and would not be tested
    return term


def fitted_term(**settings: Any) -> DualSpace:
    """Its projectors fitted to all rows, so that some of its predictions are right."""
    term, batch = dual_space_term(**settings), collate(ROWS)
    term.initialise(*ends(world(), batch), batch)
    return term


def ends(models: World, batch: TokenBatch) -> tuple[ModelOutputs, ModelOutputs]:
    """Both ends on a batch; padding is NaN."""
    found = []
    for side, hidden, embeddings, head in (
        (batch, models.student_hidden, models.student_embeddings, models.student_head),
        (batch["teacher"], models.teacher_hidden, models.teacher_embeddings, models.teacher_head),
    ):
        inner = Activations(hidden={0: laid_out(side, embeddings)})
        found.append(ModelOutputs(at_scored(laid_out(side, hidden), side), OutputHead(head), inner))
    return found[0], replace(found[1], hidden_ND=found[1].hidden_ND.detach(), head=OutputHead(models.teacher_head))


def positions(row: PairedRow, *, teacher: bool) -> list[int]:
    """Positions before the tokens of spans that are scored, all of them, on both sides."""
    masks = (row.student.answer_mask, row.teacher.answer_mask)
    unshared = {
        int(span)
        for spans, mask in zip((row.student_spans, row.teacher_spans), masks, strict=True)
        for span, scored in zip(spans, mask, strict=True)
        if not scored
    }
    spans, mask = (row.teacher_spans, masks[1]) if teacher else (row.student_spans, masks[0])
    return [t for t in range(len(spans) - 1) if mask[t + 1] and spans[t + 1] >= 0 and int(spans[t + 1]) not in unshared]


def has_read_no_more(row: PairedRow, i: int, j: int) -> bool:
    """Whether the student, at i, has read no more of the text than the teacher at j, as far as spans tell."""
    ours, theirs = row.student_spans, row.teacher_spans
    if ours[i + 1] == theirs[j + 1]:
        return bool(ours[i] != ours[i + 1])
    return bool(ours[i + 1] < theirs[j + 1])


@dataclass
class Parts:
    """The three sums, in nats; units and right predictions of the student's positions."""

    ce: Tensor
    student_space: Tensor
    teacher_space: Tensor
    count: int
    right: int

    @property
    def total(self) -> Tensor:
        return self.ce + self.student_space + self.teacher_space


def _unit(v: Tensor) -> Tensor:
    return v / v.pow(2).mean().sqrt()


def _kl(p_logits: Tensor, q_logits: Tensor, temperature: float) -> Tensor:
    p, q = (torch.softmax(logits / temperature, dim=0) for logits in (p_logits, q_logits))
    return torch.stack([a * torch.log(a / b) for a, b in zip(p, q, strict=True)]).sum()


def naive(
    models: World, weights: dict[str, Tensor], rows: Sequence[PairedRow], *, temperature: float, causal: bool
) -> Parts:
    """Position by position."""
    zero = torch.zeros((), dtype=torch.float64)
    parts = Parts(zero, zero, zero, 0, 0)

    def mapped(name: str, v: Tensor) -> Tensor:
        return weights[f"{name}.weight"] @ v + weights[f"{name}.bias"]

    for row in rows:
        r, ours, theirs = row.index, positions(row, teacher=False), positions(row, teacher=True)
        s_embedding, t_embedding = models.student_embeddings[r].detach(), models.teacher_embeddings[r].detach()
        s_hidden, t_hidden = models.student_hidden[r], models.teacher_hidden[r].detach()
        s_head, t_head = models.student_head, models.teacher_head.detach()
        score = {}
        for i in ours:
            query = mapped("query", torch.cat([_unit(s_embedding[i]), _unit(s_embedding[i + 1])]))
            for j in theirs:
                key = torch.cat([_unit(t_embedding[j]), _unit(t_embedding[j + 1])])
                score[i, j] = torch.exp(query @ key / math.sqrt(key.shape[0]))
        span_s, span_t = row.student_spans, row.teacher_spans
        for i in ours:
            gold = int(row.student.input_ids[i + 1])
            seen = [j for j in theirs if not causal or span_t[j + 1] <= span_s[i + 1]]
            whole = torch.stack([score[i, j] for j in seen]).sum()
            state = sum(
                score[i, j] / whole * mapped("to_student", _unit(t_hidden[j]) + _unit(t_embedding[j + 1])) for j in seen
            )
            logits = s_head.detach() @ state
            parts.ce = parts.ce - torch.log_softmax(logits, dim=0)[gold]
            parts.count += 1
            if int(logits[:V].argmax()) == gold:
                parts.right += 1
                own = s_head[:V] @ s_hidden[i]
                parts.student_space = parts.student_space + _kl(logits[:V].detach(), own, temperature)
        for j in theirs:
            seen = [i for i in ours if not causal or has_read_no_more(row, i, j)]
            whole = torch.stack([score[i, j] for i in seen]).sum()
            state = sum(score[i, j] / whole * mapped("to_teacher", s_hidden[i]) for i in seen)
            logits = t_head[:W] @ state
            parts.teacher_space = parts.teacher_space + _kl(t_head[:W] @ t_hidden[j], logits, temperature)
    return parts

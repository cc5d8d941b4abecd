"""Run one microbatch through the student and all terms.

Shape letters: N scored positions of the microbatch, B sequences, L positions, D student width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from distillab.errors import TeacherError
from distillab.models.activations import Activations, record_activations
from distillab.models.batch import TokenBatch
from distillab.models.heads import OutputHead, with_lm_head
from distillab.models.scoring import at_scored, scored_targets
from distillab.objectives.chunked_loss import ChunkedLoss
from distillab.objectives.drawn import Drawn
from distillab.objectives.term import ModelOutputs, Objective, SpanTerm, StudentScores, TeacherScores
from distillab.teachers.aligned import AlignedScores, align
from distillab.teachers.signals import ChunkedScores, HeadInputs, TeacherSignal


@dataclass(frozen=True)
class Measured:
    """The losses and sums of one microbatch.

    Attributes:
        losses: name -> factor · sum of the term, with gradients; terms whose gradients were computed in one
            pass have one entry, their names joined by "+".
        sums: name -> sum over the term's units, without gradients.
        values: name -> (N,) nats a position, of the terms that have them.
        hidden_ND: the student's last hidden states at the scored positions, without gradients.
        head: the student's.
        teacher: its scores, as the terms read them.
        drawn: the tokens that the student drew itself, with their probabilities now; None if none were given.
    """

    losses: dict[str, Tensor]
    sums: dict[str, Tensor]
    values: dict[str, Tensor]
    hidden_ND: Tensor
    head: OutputHead
    teacher: ChunkedScores | AlignedScores | None
    drawn: Drawn | None = None

    def scores(self, here: Tensor, batch: TokenBatch) -> tuple[StudentScores, TeacherScores | None]:
        """Compute the logits of student and teacher at some scored positions again, to inspect them."""
        with torch.no_grad():
            student = StudentScores(self.head.logits(self.hidden_ND[here]), scored_targets(batch)[here])
            teacher = None if self.teacher is None else self.teacher.chunk(here, self.hidden_ND.device)
        return student, teacher


def measure(
    model: torch.nn.Module,
    batch: TokenBatch,
    objective: Objective,
    signal: TeacherSignal,
    *,
    factors: Mapping[str, float],
    device: torch.device,
    per_term_backward: bool = False,
    drawn: Drawn | None = None,
) -> Measured:
    """Run the student on a microbatch and apply every term.

    Args:
        model: the student, maybe wrapped.
        signal: the teacher's signal for the same batch.
        factors: name -> factor of the term's sum in the loss.
        device: the student's.
        per_term_backward: give each term a separate loss (the head is applied once for each term that reads logits),
            so that their gradients can be measured one by one.
        drawn: which of the tokens the student drew itself.
    """
    targets_N = scored_targets(batch).to(device)
    teacher = _read_by_student(signal, batch, objective, device)
    names = list(objective.token_terms)
    groups = [[name] for name in names] if per_term_backward or not names else [names]
    span_terms = {name: term for name, term in objective.token_terms.items() if isinstance(term, SpanTerm)}
    scored_at = {
        name: where.to(device) for name, term in span_terms.items() if (where := term.scored_at(batch)) is not None
    }
    losses: dict[str, Tensor] = {}
    values: dict[str, Tensor] = {}
    by_head_terms: dict[str, Tensor] = {}
    kept: list[tuple[Tensor, OutputHead]] = []

    def read(hidden_BLD: Tensor, head: OutputHead) -> Tensor:
        hidden_ND = at_scored(hidden_BLD, batch)
        kept.append((hidden_ND.detach(), head))
        for group in groups:
            work = ChunkedLoss(
                head=head,
                targets_N=targets_N,
                teacher=teacher,
                terms={name: objective.token_terms[name] for name in group},
                factors={name: factors[name] for name in group},
                reduce_spans={
                    name: partial(span_terms[name].reduce_spans, batch=batch, signal=signal)
                    for name in group
                    if name in span_terms
                },
                scored_at={name: scored_at[name] for name in group if name in scored_at},
                drawn=drawn,
            )
            losses["+".join(group)] = work.loss(hidden_ND)
            values.update(work.values)
        for name, term in objective.head_terms.items():
            own = term.total(ModelOutputs(hidden_ND, head, activations), teacher_outputs(signal), batch)
            by_head_terms[name] = own.detach()
            losses[name] = factors[name] * own
        # without a term that reads logits the model's output still has to lead back to its hidden states
        return torch.stack(list(losses.values())) if losses else hidden_ND

    with record_activations(model, objective.student_activations) as activations:
        output = with_lm_head(model, batch, read, device=device)
    # as the head's module gives them: what a wrapper has added to its output is part of the backward pass
    losses.update(zip(list(losses), output.unbind(), strict=True) if losses else ())
    sums = {name: per_position.sum() for name, per_position in values.items()} | by_head_terms
    for name, term in objective.activation_terms.items():
        total = term.total(activations, signal.activations or Activations(), batch)
        sums[name] = total.detach()
        losses[name] = factors[name] * total
    return Measured(losses, sums, values, *kept[0], teacher, drawn)


def teacher_outputs(signal: TeacherSignal) -> ModelOutputs:
    """Return the teacher as a `HeadTerm` reads it.

    Raises:
        TeacherError: it does not give its last hidden states with its head.
    """
    if not isinstance(signal.scores, HeadInputs):
        given = "no scores" if signal.scores is None else type(signal.scores).__name__
        raise TeacherError(
            "A term applies the teacher's head itself, and the teacher does not give it with its hidden states.",
            facts=[f"given: {given}"],
            fix="a teacher with weights (teacher: {path: …}), or a cache of kind full",
        )
    return ModelOutputs(signal.scores.hidden_ND, signal.scores.head, signal.activations or Activations())


def _read_by_student(
    signal: TeacherSignal, batch: TokenBatch, objective: Objective, device: torch.device
) -> ChunkedScores | AlignedScores | None:
    """Return the teacher's scores at the student's positions, aligned if the teacher read other tokens.

    None if no term reads them.
    """
    needs = [term.score_request for term in objective.token_terms.values() if term.score_request is not None]
    if signal.scores is None or not needs:
        return None
    if "teacher" not in batch:
        return signal.scores
    return align(
        signal.scores,
        batch,
        width=max(need.width for need in needs),
        ordinal=any(term.ordinal for term in objective.token_terms.values()),
        continues=any(term.continues for term in objective.token_terms.values()),
        device=device,
    )

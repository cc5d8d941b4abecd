"""Does the pass through the head in chunks give what the model's own logits give?

A run never makes all logits at once: it makes those of a chunk, applies the terms, takes the gradient and forgets them.
Here the student makes all of them by its own forward, and the same terms are applied to these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from distillab.doctor.clock import Clock
from distillab.doctor.page import from_page
from distillab.doctor.selftest.messages import left_out, number, scope
from distillab.doctor.selftest.rounding import rounding_of
from distillab.doctor.selftest.setup import Setup
from distillab.models.inputs import model_inputs
from distillab.models.scoring import at_scored, scored_targets
from distillab.objectives.step import Measured, measure
from distillab.objectives.term import Objective, SpanTerm, StudentScores, TeacherScores
from distillab.records import CheckResult, Finding
from distillab.teachers.signals import TeacherSignal

CHECK_ID = "selftest-head"
_UNITS = 4.0


@dataclass(frozen=True)
class HeadDifference:
    """Both ways to one loss.

    Attributes:
        chunked, dense: the loss, Σ over the terms that read logits.
        gradient: ‖chunked − dense‖ / ‖dense‖ over all parameters that learn.
    """

    chunked: float
    dense: float
    gradient: float


def check_head(setups: Sequence[Setup], clock: Clock) -> CheckResult:
    """Compare the two ways for every objective.

    Args:
        setups: all objectives of the recipe.
        clock: what is left of the time.
    """
    missed: list[tuple[str, str]] = []
    findings: list[Finding] = []
    looked: list[Setup] = []
    for setup in setups:
        if (refusal := clock.refuses(_UNITS)) is not None:
            missed.append((setup.name, refusal))
        elif setup.draws:
            missed.append((setup.name, "the term samples from the teacher, anew for each of the two"))
        elif (found := head_difference(setup)) is not None:
            looked.append(setup)
            findings += head_findings(found, setup)
        else:
            missed.append((setup.name, "no term reads logits position by position"))
    return CheckResult(
        check=CHECK_ID,
        scope=scope(looked, "loss and gradient"),
        skipped=left_out(missed),
        findings=tuple(findings),
    )


def head_difference(setup: Setup) -> HeadDifference | None:
    """Return the loss and its gradient in both ways; None if no term uses logits."""
    student = setup.student(dropout=False)
    objective = setup.objective(student)
    if not objective.token_terms:
        return None
    factors = {item.name: 1.0 / max(1, item.term.count(setup.batch)) for item in objective.terms}
    learning = [p for p in student.parameters() if p.requires_grad]
    with setup.arithmetic():
        signal = setup.signal(objective)
        measured = measure(student, setup.batch, objective, signal, factors=factors, device=setup.device)
        chunked = measured.losses["+".join(objective.token_terms)]
        dense = _dense(setup, student, objective, signal, measured, factors)
    by_chunks, by_logits = _gradient(chunked, learning), _gradient(dense, learning)
    size = float(by_logits.norm())
    apart = float((by_chunks - by_logits).norm()) / size if size else float(by_chunks.norm())
    return HeadDifference(float(chunked.detach()), float(dense.detach()), apart)


def head_findings(found: HeadDifference, setup: Setup) -> list[Finding]:
    """Return what is wrong with a head whose two ways differ like this."""
    rounding = rounding_of(setup)
    loss_apart = abs(found.chunked - found.dense) / max(abs(found.dense), 1e-6)
    if loss_apart <= rounding.allowed and found.gradient <= rounding.allowed:
        return []
    return [
        from_page(
            "head-pass-differs",
            evidence=(
                f"arms {setup.name}: {number(found.chunked)} in chunks, {number(found.dense)} from all logits",
                f"their gradients differ by {found.gradient:.1%} of their size ({rounding})",
            ),
        )
    ]


def _dense(
    setup: Setup,
    student: torch.nn.Module,
    objective: Objective,
    signal: TeacherSignal,
    measured: Measured,
    factors: dict[str, float],
) -> Tensor:
    """Return Σ factor · term over the terms that use logits, from all logits at once."""
    batch, device = setup.batch, setup.device
    logits_BLV = cast(Tensor, student(**model_inputs(batch, device, model=student)).logits)
    scores = StudentScores(at_scored(logits_BLV, batch), scored_targets(batch).to(device))
    here = slice(0, scores.targets_N.shape[0])

    def teacher() -> TeacherScores | None:
        # valid until the teacher's next forward pass, which a term may do while it settles
        return None if measured.teacher is None else measured.teacher.chunk(here, device)

    total = torch.zeros((), device=device)
    for name, term in objective.token_terms.items():
        if isinstance(term, SpanTerm):
            nats = term.reduce_spans(term.score(scores), batch, signal)
            if term.adds_position_values:
                nats = nats + term.position_values(scores, teacher())
        else:
            nats = term.per_position(scores, teacher())
        total = total + factors[name] * nats.sum()
    return total


def _gradient(loss: Tensor, parameters: Sequence[torch.nn.Parameter]) -> Tensor:
    found = torch.autograd.grad(loss, list(parameters), allow_unused=True)
    return torch.cat(
        [
            (torch.zeros_like(p) if gradient is None else gradient).float().flatten()
            for p, gradient in zip(parameters, found, strict=True)
        ]
    )

"""Does the evaluation see the weights? The same weights give the same figures, other weights give others."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distillab.doctor.clock import Clock
from distillab.doctor.page import from_page
from distillab.doctor.selftest.messages import number
from distillab.doctor.selftest.setup import Setup
from distillab.evaluation.protocol import EvaluationResult, evaluate
from distillab.records import CheckResult, Finding
from distillab.terminal import plural

CHECK_ID = "selftest-evaluation"
_UNITS = 8.0
_ROWS, _ANSWERS, _TOKENS = 8, 2, 8
_NOISE = 0.05  # of each tensor's own size
_SEED = 0
_ROUNDING = 1e-4


def check_evaluation(setup: Setup, clock: Clock) -> CheckResult:
    """Evaluate the student before training twice, and once more with other weights.

    Args:
        setup: of any objective; all arms are judged in the same way.
        clock: what is left of the time.
    """
    held_out = setup.inputs.held_out.first(_ROWS)
    scope = f"{plural(len(held_out.rows), 'held-out row')}, evaluated three times"
    if (refusal := clock.refuses(_UNITS)) is not None:
        return CheckResult(check=CHECK_ID, scope=scope, skipped=refusal)
    student = setup.student()
    first, again = judged(setup, student), judged(setup, student)
    disturb(student)
    return CheckResult(
        check=CHECK_ID, scope=scope, findings=tuple(evaluation_findings(first, again, judged(setup, student)))
    )


def judged(setup: Setup, student: PreTrainedModel, *, answers: bool = True) -> EvaluationResult:
    """Evaluate the student by the recipe's protocol on a few held-out rows.

    Args:
        answers: whether it writes some too.
    """
    own = setup.recipe.evaluation
    settings = own.model_copy(
        update={
            "rows": _ROWS,
            "tasks": (),
            "generate_rows": min(own.generate_rows, _ANSWERS) if answers else 0,
            "max_new_tokens": min(own.max_new_tokens, _TOKENS),
        }
    )
    return evaluate(
        student,
        setup.inputs.held_out.first(_ROWS),
        settings,
        reader=setup.inputs.student,
        shared=None,
        label="the self-test",
    )


@torch.no_grad()
def disturb(student: PreTrainedModel) -> None:
    """Add noise to every weight, a twentieth of its tensor's own size."""
    generator = torch.Generator().manual_seed(_SEED)
    for parameter in student.parameters():
        size = float(parameter.float().square().mean().sqrt())
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.add_((noise * _NOISE * size).to(parameter))


def evaluation_findings(first: EvaluationResult, again: EvaluationResult, other: EvaluationResult) -> list[Finding]:
    """Return the findings of an evaluation with these figures for the same and for other weights."""
    figures = tuple(
        f"{what}: {number(judged.record.nats_per_token)} nats per token"
        for what, judged in (("the student", first), ("again", again), ("with other weights", other))
    )
    if _apart(first.scores.nats, again.scores.nats) > _ROUNDING or first.answers != again.answers:
        return [
            from_page(
                "evaluation-not-repeatable",
                evidence=(
                    *figures,
                    f"largest difference of a row: {number(_apart(first.scores.nats, again.scores.nats))}",
                ),
            )
        ]
    if bool((first.scores.nats == other.scores.nats).all()):
        return [from_page("evaluation-blind-to-weights", evidence=figures)]
    return []


def _apart(one: Tensor, other: Tensor) -> float:
    """Return the largest relative difference of a row's nats."""
    return float(((one - other).abs() / one.abs().clamp(min=1e-6)).max())

"""Where a loss is lowest: at the teacher, or somewhere else, and why.

Shape letters: B sequences, L positions, N positions that count, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from distillab.doctor.loss.formulas import Fit, lowest
from distillab.doctor.loss.subject import NOTHING_LEFT, Subject, alike
from distillab.doctor.loss.vocabulary import kept_tokens
from distillab.records.findings import Finding

# A student that ends farther from the teacher than this is not taught by it, whatever else the loss is meant to do.
_FAR = 0.5
_STEPS = 200
_CLEARLY = math.log(1.25)


def equality_findings(subject: Subject, fit: Fit | None) -> list[Finding]:
    """What is wrong with the place where the loss is lowest.

    Args:
        fit: the formula that explains the gradient best; None where none was looked for.
    """
    if not subject.teacher_is_target or not subject.reads_teacher_alone:
        return []
    if fit is not None and fit.holds and fit.formula.mistake is not None:
        return [_mistaken(subject, fit)]
    if fit is not None and fit.holds and fit.formula.family == "of_likeliest":
        return [_only_the_likeliest()]
    if subject.left_at_teacher < NOTHING_LEFT:
        return _upside_down(subject) or _unnormalised(subject, fit)
    ratio = one_sided(subject)
    if ratio is not None:
        return [_one_sided(subject, ratio)]
    # a teacher that is cut to its top k without the rest says so by itself
    return [_elsewhere(subject)] if kept_tokens(subject) is None else []


def _facts(subject: Subject) -> tuple[str, str]:
    return (
        f"gradient at student = teacher: {subject.left_at_teacher:.1%} of that at independent logits (0 is right)",
        f"value of the teacher's part: {subject.soft_value_at_teacher:.4g} at student = teacher, "
        f"{subject.soft_value:.4g} at independent logits",
    )


def _mistaken(subject: Subject, fit: Fit) -> Finding:
    return Finding(
        id="loss-mixes-logs-and-probabilities",
        severity="error",
        title="Probabilities, log-probabilities or raw logits stand where another of them belongs.",
        evidence=(
            f"the gradient is that of: {fit.words} (off by {fit.off:.1e})",
            f"the mistake: {fit.formula.mistake}",
            *_facts(subject),
        ),
        explanation="The numbers are not a divergence between two distributions. They can be negative, and what they "
        "are lowest for is not the teacher.",
        fix=(
            "kl_div(log_softmax(student / T, -1), log_softmax(teacher / T, -1), log_target=True, reduction='none')",
            "in distillab: forward_kl(student_logp=…, teacher_logp=…), where the names say what is wanted",
        ),
    )


def _only_the_likeliest() -> Finding:
    return Finding(
        id="loss-drops-teacher-tail",
        severity="warning",
        title="Of the teacher's distribution only the most likely token is read.",
        evidence=("the gradient is that of a cross-entropy with argmax(teacher_logits)",),
        explanation="This is sequence-level distillation position by position: how sure the teacher is, and what else "
        "it would have said, is lost.",
        fix=("take a divergence between the distributions where the logits are there anyway",),
    )


def _upside_down(subject: Subject) -> list[Finding]:
    at_teacher, elsewhere = subject.soft_value_at_teacher, subject.soft_value
    if elsewhere >= at_teacher - 1e-4 * max(abs(at_teacher), abs(elsewhere)):
        return []
    return [
        Finding(
            id="loss-not-minimal-at-teacher",
            severity="error",
            title="The loss is highest, not lowest, where the student equals the teacher.",
            evidence=_facts(subject),
            explanation="Its sign is turned round: training drives the student away from the teacher.",
            fix=("turn the sign round: KL(p ‖ q) = Σ p (log p − log q)",),
        )
    ]


def _unnormalised(subject: Subject, fit: Fit | None) -> list[Finding]:
    """exp(logits) in place of probabilities: right but for a weight that each position's logits make up."""
    if fit is None or not fit.holds or not fit.formula.tempered or not fit.formula.nats:
        return []
    raised = subject.caller.attempt(replace(subject.batch, teacher=subject.batch.teacher + 1.0))
    if raised is None or alike(raised, subject.base, share=1e-2):
        return []
    return [
        Finding(
            id="loss-mixes-logs-and-probabilities",
            severity="error",
            title="The teacher's raw logits stand where log-probabilities belong.",
            evidence=(
                f"all teacher logits plus 1, which is the same distribution: value {raised.value:.4g} instead of "
                f"{subject.base.value:.4g}",
                f"the positions' weights differ by a factor of {float(fit.weights.max() / fit.weights.min()):.3g}",
            ),
            explanation="exp(logit) is no probability: it is one times a number of its own at every position. "
            "Positions at which the teacher's logits happen to be large rule the gradient.",
            fix=("kl_div(…, target=log_softmax(teacher_logits, -1), log_target=True)",),
        )
    ]


def one_sided(subject: Subject) -> float | None:
    """The factor k at which student logits = k · teacher logits leave no gradient; None where there is none."""
    size = float(subject.soft_gradient.norm())

    def left(power: float) -> float:
        scaled = subject.batch.teacher * 2.0**power
        now = subject.caller.attempt(replace(subject.batch, student=scaled))
        if now is None:
            return float("inf")
        rest = float((now.gradient - subject.hard.gradient(scaled)).norm()) / size
        return rest if rest == rest else float("inf")

    power = lowest(left, -2.5, 2.5, steps=20)
    inside = abs(power) < 2.4 and left(power) < left(power - 0.25) and left(power) < left(power + 0.25)
    return 2.0**power if inside and left(power) < NOTHING_LEFT / 2 else None


def _one_sided(subject: Subject, ratio: float) -> Finding:
    side = "student" if ratio > 1 else "teacher"
    return Finding(
        id="loss-temperature-on-one-side",
        # nearer to 1 it may as well be meant: an entropy bonus beside a reverse KL does the same
        severity="error" if abs(math.log(ratio)) > _CLEARLY else "warning",
        title=f"Only the {side}'s logits are divided by a temperature, or by another one than the other side's.",
        evidence=(
            f"the gradient vanishes where the student's logits are {ratio:.3g} times the teacher's, not where they are "
            "equal",
            *_facts(subject),
        ),
        explanation="A student that fits perfectly is "
        + ("sharper" if ratio > 1 else "flatter")
        + f" than the teacher: its logits are {ratio:.3g} times as large.",
        fix=("divide both sides by the same temperature before the softmax",),
    )


def _elsewhere(subject: Subject) -> Finding:
    distance = distance_of_best_student(subject)
    return Finding(
        id="loss-not-minimal-at-teacher",
        severity="error" if distance > _FAR else "warning",
        title="The loss is not lowest where the student equals the teacher.",
        evidence=(
            *_facts(subject),
            f"logits that are trained freely, {_STEPS} steps from the teacher's on, end {distance:.3g} nats a token "
            "from the teacher (forward KL)",
        ),
        explanation="A student that could do anything would not become the teacher. A small distance can be a "
        "regulariser that is meant, a large one is another quantity than a divergence.",
        fix=(
            "call it with the same logits on both sides: the teacher's part must have no gradient there",
            "check softmax and log on both sides, the temperature on both sides, masks on both sides",
        ),
    )


def distance_of_best_student(subject: Subject) -> float:
    """Nats a token, forward KL, between the teacher and the logits that the loss leads to from the teacher's on."""
    teacher = subject.batch.teacher
    free = teacher.clone().requires_grad_()
    optimizer = torch.optim.Adam([free], lr=0.1)
    for _ in range(_STEPS):
        now = subject.caller.attempt(replace(subject.batch, student=free.detach()))
        if now is None or not now.finite:
            break
        free.grad = now.gradient - subject.hard.gradient(free.detach())
        optimizer.step()
    counted = subject.footprint.teacher
    return float(_forward_kl(teacher[counted], free.detach()[counted]).mean())


def _forward_kl(teacher: Tensor, student: Tensor) -> Tensor:
    p, q = teacher.double().log_softmax(-1), student.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)

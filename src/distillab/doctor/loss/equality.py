"""Where a loss is lowest, at the teacher or elsewhere, and how it reads the vocabulary: softmax, tokens, tail.

Shape letters: B sequences, L positions, N positions that count, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from distillab.divergences import forward_kl
from distillab.doctor.checks import from_page
from distillab.doctor.loss.call import LogitBatch, Measured, renamed
from distillab.doctor.loss.formulas import Fit, lowest
from distillab.doctor.loss.subject import NOTHING_LEFT, Subject, alike
from distillab.records.findings import Finding

# A student that ends farther from the teacher than this is not taught by it, whatever else the loss is meant to do.
_FAR = 0.5
_STEPS = 200
_CLEARLY = math.log(1.25)
# A teacher this flat gives its tail a mass that can be seen.
_FLATTENED = 0.3


def equality_findings(subject: Subject, fit: Fit | None) -> Iterator[Finding]:
    """Return what is wrong with the place where the loss is lowest.

    Args:
        fit: the formula that explains the gradient best; None where none was looked for.
    """
    if not subject.teacher_is_target or not subject.reads_teacher_alone:
        return
    if fit is not None and fit.holds and fit.formula.mistake is not None:
        yield _mistaken(subject, fit)
        return
    if fit is not None and fit.holds and fit.formula.family == "of_likeliest":
        fact = "the gradient is that of a cross-entropy with argmax(teacher_logits)"
        yield from_page("loss-drops-teacher-tail", fact, case="argmax")
        return
    if subject.left_at_teacher < NOTHING_LEFT:
        yield from list(_upside_down(subject)) or _unnormalised(subject, fit)
        return
    ratio = one_sided(subject)
    if ratio is not None:
        yield _one_sided(subject, ratio)
        return
    # a teacher that is cut to its top k without the rest has another finding
    if kept_tokens(subject) is None:
        yield _elsewhere(subject)


def _facts(subject: Subject) -> tuple[str, str]:
    return (
        f"gradient at student = teacher: {subject.left_at_teacher:.1%} of that at independent logits (0 is right)",
        f"value of the teacher's part: {subject.soft_value_at_teacher:.4g} at student = teacher, "
        f"{subject.soft_value:.4g} at independent logits",
    )


def _mistaken(subject: Subject, fit: Fit) -> Finding:
    return from_page(
        "loss-mixes-logs-and-probabilities",
        f"the gradient is that of: {fit.words} (off by {fit.off:.1e})",
        f"the mistake: {fit.formula.mistake}",
        *_facts(subject),
        case="any",
    )


def _upside_down(subject: Subject) -> Iterator[Finding]:
    at_teacher, elsewhere = subject.soft_value_at_teacher, subject.soft_value
    if elsewhere >= at_teacher - 1e-4 * max(abs(at_teacher), abs(elsewhere)):
        return
    yield from_page("loss-not-minimal-at-teacher", *_facts(subject), case="highest")


def _unnormalised(subject: Subject, fit: Fit | None) -> Iterator[Finding]:
    """Return the finding of exp(logits) in place of probabilities: right except for a weight at each position."""
    if fit is None or not fit.holds or not fit.formula.tempered or not fit.formula.nats:
        return
    raised = subject.caller.attempt(replace(subject.batch, teacher=subject.batch.teacher + 1.0))
    if raised is None or alike(raised, subject.base, share=1e-2):
        return
    yield from_page(
        "loss-mixes-logs-and-probabilities",
        f"all teacher logits plus 1, which is the same distribution: value {raised.value:.4g} instead of "
        f"{subject.base.value:.4g}",
        f"the positions' weights differ by a factor of {float(fit.weights.max() / fit.weights.min()):.3g}",
        case="teacher",
    )


def one_sided(subject: Subject) -> float | None:
    """Return the factor k at which student logits = k · teacher logits leave no gradient; None if there is none."""
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
    return from_page(
        "loss-temperature-on-one-side",
        f"the gradient vanishes where the student's logits are {ratio:.3g} times the teacher's, not where they are "
        "equal",
        *_facts(subject),
        case="too sharp" if ratio > 1 else "too flat",
        severity="error" if abs(math.log(ratio)) > _CLEARLY else "warning",
        words={"side": side, "ratio": f"{ratio:.3g}"},
    )


def _elsewhere(subject: Subject) -> Finding:
    distance = distance_of_best_student(subject)
    return from_page(
        "loss-not-minimal-at-teacher",
        *_facts(subject),
        f"logits trained freely for {_STEPS} steps, starting at the teacher's, end {distance:.3g} nats per token "
        "from them (forward KL)",
        case="not lowest",
        severity="error" if distance > _FAR else "warning",
    )


def distance_of_best_student(subject: Subject) -> float:
    """Return the forward KL, nats per token, between the teacher and logits that are trained from the teacher's on."""
    teacher = subject.batch.teacher
    free = teacher.clone().requires_grad_()
    optimizer = torch.optim.Adam([free], lr=0.1)
    for _ in range(_STEPS):
        now = subject.caller.attempt(replace(subject.batch, student=free.detach()))
        if now is None or not now.finite:
            break
        free.grad = now.gradient - subject.hard.gradient(free.detach())
        optimizer.step()
    p, q = (logits[subject.footprint.teacher].double().log_softmax(-1) for logits in (teacher, free.detach()))
    return float(forward_kl(teacher_logp=p, student_logp=q).mean())


def softmax_findings(subject: Subject) -> Iterator[Finding]:
    """Return the finding of a softmax over another dimension: a softmax ignores a number added to all its logits."""
    models = ["teacher"] if subject.hard.offset is not None else ["student", "teacher"]
    for model in models:
        rows, length, vocabulary = subject.batch.student.shape
        generator = torch.Generator().manual_seed(5)
        over_tokens = torch.randn(rows, length, 1, generator=generator) * 2.0
        over_others = torch.randn(1, 1, vocabulary, generator=generator) * 2.0
        right, wrong = _added(subject, model, over_tokens), _added(subject, model, over_others)
        if right is None or wrong is None or alike(right, subject.base, share=1e-3):
            continue
        if alike(wrong, subject.base, share=1e-3):
            yield from_page(
                "loss-softmax-over-wrong-dimension",
                f"a number added to all of the {model}'s logits of a position changes the value from "
                f"{subject.base.value:.4g} to {right.value:.4g}; a softmax over tokens would not change",
                f"a number added to one token at all positions does not: {wrong.value:.4g}",
            )
            return


def _added(subject: Subject, model: str, number: Tensor) -> Measured | None:
    batch = subject.batch
    changed = (
        replace(batch, student=batch.student + number)
        if model == "student"
        else replace(batch, teacher=batch.teacher + number)
    )
    return subject.caller.attempt(changed)


def token_findings(subject: Subject) -> Iterator[Finding]:
    """Return findings on the order of the ids, on which token is which, and on the teacher's tail."""
    other = subject.caller.attempt(renamed(subject.batch, seed=3))
    if other is not None and abs(other.value - subject.base.value) > 1e-4 * abs(subject.base.value):
        yield from_page(
            "loss-depends-on-token-order", f"value {subject.base.value:.4g}; with renamed tokens {other.value:.4g}"
        )
    if _is_blind(subject):
        yield from_page(
            "loss-blind-to-token-identity",
            "the teacher's logits in another order of tokens give the same value and gradient",
            severity="note" if subject.hard.offset is not None else "warning",
        )
    else:
        yield from _tail_findings(subject)


def _is_blind(subject: Subject) -> bool:
    order = torch.randperm(subject.batch.teacher.shape[-1], generator=torch.Generator().manual_seed(11))
    now = subject.caller.attempt(replace(subject.batch, teacher=subject.batch.teacher[..., order]))
    return now is not None and subject.teacher_is_target and alike(now, subject.base)


def _tail_findings(subject: Subject) -> Iterator[Finding]:
    kept = kept_tokens(subject)
    if kept is None or not subject.teacher_is_target or not subject.reads_teacher_alone:
        return
    order = subject.batch.teacher.argsort(dim=-1, descending=True)
    in_tail = subject.soft_gradient.gather(-1, order)[..., kept:]
    tail_is_seen = float(in_tail.norm()) > 1e-3 * float(subject.soft_gradient.norm())
    if subject.left_at_teacher < NOTHING_LEFT and tail_is_seen:
        return
    yield from_page(
        "loss-drops-teacher-tail",
        f"only the teacher's {kept} most likely of {order.shape[-1]} tokens have an influence",
        f"gradient at student = teacher: {subject.left_at_teacher:.1%} of that at independent logits",
        f"the student's other tokens have {'a' if tail_is_seen else 'no'} gradient",
        case="top k",
    )


def kept_tokens(subject: Subject) -> int | None:
    """Return how many of the teacher's most likely tokens are used; None if all are."""
    batch = subject.batch
    flat = replace(batch, teacher=batch.teacher * _FLATTENED)
    base = subject.caller.attempt(flat)
    if base is None:
        return None
    vocabulary = batch.teacher.shape[-1]
    for kept in range(1, vocabulary - 1):
        now = subject.caller.attempt(_tail_reversed(flat, kept))
        if now is not None and alike(now, base):
            return kept
    return None


def _tail_reversed(batch: LogitBatch, kept: int) -> LogitBatch:
    values, order = batch.teacher.sort(dim=-1, descending=True)
    values = torch.cat([values[..., :kept], values[..., kept:].flip(-1)], dim=-1)
    return replace(batch, teacher=torch.empty_like(values).scatter(-1, order, values))

"""What a loss does with numbers that are hard (−inf, large gaps, bfloat16, another width), and with its temperature."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from distillab.doctor.checks import from_page
from distillab.doctor.loss.call import fresh_logits
from distillab.doctor.loss.formulas import Fit, best_temperature, fitted
from distillab.doctor.loss.subject import Subject, alike, measured_hard_part
from distillab.records.findings import Finding

# A student this near to the teacher is what a run ends with.
_NEAR = 0.1
_GAP = 60.0
_MASKED = 3
_TRIED = (1.0, 2.0, 4.0)


def number_findings(subject: Subject) -> Iterator[Finding]:
    """Run all of this module's checks."""
    yield from _minus_infinity(subject)
    yield from _large_gaps(subject)
    yield from _nothing_scored(subject)
    yield from _bfloat16(subject)
    yield from _other_width(subject)


def _minus_infinity(subject: Subject) -> Iterator[Finding]:
    batch = subject.batch
    free = torch.ones(batch.student.shape[2], dtype=torch.bool)
    free[batch.labels[batch.labels >= 0]] = False
    ids = free.nonzero()[:_MASKED, 0]
    if len(ids) == 0:
        return

    def masked(logits: torch.Tensor) -> torch.Tensor:
        return logits.index_fill(2, ids, -torch.inf)

    cases = {
        "the teacher's logits of some tokens are −inf": replace(batch, teacher=masked(batch.teacher)),
        "both models' logits of some tokens are −inf": replace(
            batch, teacher=masked(batch.teacher), student=masked(batch.student)
        ),
    }
    evidence = []
    for words, tried in cases.items():
        now = subject.caller.attempt(tried)
        # where the true value is infinite, as a reverse KL's is, the gradient may be what it likes
        if now is not None and now.has_nan and abs(now.value) != float("inf"):
            what = "value and gradient are" if now.value != now.value else "the gradient is"
            evidence.append(f"{words}: {what} NaN")
    if evidence:
        yield from_page("loss-nan-at-minus-infinity", *evidence)


def _large_gaps(subject: Subject) -> Iterator[Finding]:
    batch = subject.batch
    tried = replace(batch, student=batch.student * _GAP, teacher=batch.teacher * _GAP)
    now = subject.caller.attempt(tried)
    if now is not None and not now.finite:
        between = f"logits between {tried.teacher.min():.0f} and {tried.teacher.max():.0f}"
        yield from_page("loss-not-finite-at-large-gaps", f"{between}: value {now.value:g}")


def _nothing_scored(subject: Subject) -> Iterator[Finding]:
    if "labels" not in subject.caller.takes or subject.caller.given == "scored":
        return
    now = subject.caller.attempt(replace(subject.batch, labels=torch.full_like(subject.batch.labels, -100)))
    if now is None or not now.has_nan:
        return
    in_gradient = bool(now.gradient.isnan().any())
    yield from_page(
        "loss-nan-when-nothing-is-scored",
        "all labels -100: value NaN, gradient " + ("NaN" if in_gradient else "finite"),
        case="gradient" if in_gradient else "value",
    )


class _Softmaxes(TorchDispatchMode):
    """The types in which softmaxes come out."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.types: set[torch.dtype] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation, and record its dtype."""
        out = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten._log_softmax.default, torch.ops.aten._softmax.default):
            self.types.add(out.dtype)
        return out


def _bfloat16(subject: Subject) -> Iterator[Finding]:
    with _Softmaxes() as softmaxes:
        subject.caller.attempt(subject.batch)
    low = sorted(str(kind).removeprefix("torch.") for kind in softmaxes.types & {torch.bfloat16, torch.float16})
    if low:
        fact = f"float32 logits were given; a softmax came out in {', '.join(low)}"
        yield from_page("loss-imprecise-in-bfloat16", fact, case="always")
        return
    batch = subject.batch
    near = batch.teacher + _NEAR * fresh_logits(batch, seed=13)
    teacher, student = batch.teacher.bfloat16(), near.bfloat16()
    exact = subject.caller.attempt(replace(batch, student=student.float(), teacher=teacher.float()))
    rounded = subject.caller.attempt(replace(batch, student=student, teacher=teacher))
    if exact is None or rounded is None or not exact.finite:
        return
    size = float(exact.gradient.norm())
    off = float((rounded.gradient - exact.gradient).norm()) / max(size, 1e-30)
    if off < 0.25:
        return
    yield from_page(
        "loss-imprecise-in-bfloat16",
        f"the same logits: value {exact.value:.4g} in float32, {rounded.value:.4g} in bfloat16",
        f"the gradient is off by {off:.0%} of its length",
        case="in bfloat16",
    )


def _other_width(subject: Subject) -> Iterator[Finding]:
    batch = subject.batch
    more = fresh_logits(batch, seed=17)[..., :5]
    wider = replace(batch, teacher=torch.cat([batch.teacher, more], dim=2))
    now = subject.caller.attempt(wider)
    if now is None or not subject.footprint.teacher.any():
        return
    cut = abs(now.value - subject.base.value) < 1e-5 * abs(subject.base.value)
    vocabulary = batch.student.shape[2]
    yield from_page(
        "loss-accepts-other-width",
        f"{vocabulary} tokens of the student, {vocabulary + 5} of the teacher: value {now.value:.4g}",
        f"with the teacher cut to {vocabulary} before its softmax: {subject.base.value:.4g}",
        severity="note" if cut else "warning",
    )


def input_findings(changed: tuple[str, ...]) -> Iterator[Finding]:
    """Return a finding if the function writes into the logits that it is given."""
    if changed:
        yield from_page("loss-changes-its-inputs", *(f"{side}'s logits are changed by the call" for side in changed))


@dataclass(frozen=True)
class TemperatureResponse:
    """found: the softmax's temperature for each that was requested. power: the loss is multiplied by T to that power.

    hard_power: the power of T by which the weight of the cross-entropy with labels grows; None without such a part.
    """

    found: tuple[float, ...] | None
    power: float | None
    hard_power: float | None
    without_effect: bool

    @property
    def follows(self) -> bool:
        """Whether the softmax has the requested temperature."""
        return self.found is None or all(
            abs(found / requested - 1) < 0.02 for found, requested in zip(self.found, _TRIED, strict=True)
        )


def measured_response(subject: Subject, fit: Fit | None) -> TemperatureResponse | None:
    """Call the function at temperatures 1, 2 and 4; None if it has none, or cannot be called so."""
    if subject.caller.temperature is None:
        return None
    calls = [subject.caller.attempt(subject.batch, temperature=requested) for requested in _TRIED]
    measured = [one for one in calls if one is not None and one.finite]
    if len(measured) < len(_TRIED):
        return None
    if all(alike(measured[0], one) for one in measured[1:]):
        return TemperatureResponse(None, None, None, True)
    hard_power = None
    hard = [
        measured_hard_part(subject.caller, subject.batch, one, temperature=requested)
        for requested, one in zip(_TRIED, measured, strict=True)
    ]
    if hard[0].offset is not None:
        weights = [float(one.weight.abs().sum()) for one in hard]
        hard_power = math.log(weights[2] / weights[0], 4.0) if min(weights) > 0 else None
    known = fit is not None and fit.holds and fit.formula.tempered and fit.formula.mistake is None
    if not known or fit is None or subject.hard.temperature != 1.0 or not subject.reads_teacher_alone:
        return TemperatureResponse(None, None, hard_power, False)
    at = subject.footprint.teacher
    student, teacher = subject.batch.student[at], subject.batch.teacher[at]
    found, sizes = [], []
    for one, part in zip(measured, hard, strict=True):
        smooth = replace(part, smoothing=subject.hard.smoothing)
        gradient = (one.gradient - smooth.gradient(subject.batch.student))[at]
        warmth = best_temperature(fit.formula, student, teacher, gradient)
        found.append(warmth)
        sizes.append(float(fitted(fit.formula, warmth, student, teacher, gradient.double()).weights.abs().sum()))
    power = math.log(sizes[2] / sizes[0], 4.0) if min(sizes) > 0 else None
    return TemperatureResponse(tuple(found), power, hard_power, False)


def temperature_findings(subject: Subject, response: TemperatureResponse | None) -> Iterator[Finding]:
    """Return findings of a temperature without effect, in the wrong place, or with an unusual factor."""
    if response is None:
        return
    name = subject.caller.temperature
    if response.without_effect:
        yield from_page(
            "loss-temperature-without-effect",
            f"{name} = 1, 2 and 4 give the same value, {subject.base.value:.4g}, and the same gradient",
        )
        return
    requested = ", ".join(f"{one:g}" for one in _TRIED)
    if response.found is not None and not response.follows:
        yield _misplaced(subject, response.found, requested)
    elif response.power is not None and min(abs(response.power), abs(response.power - 2.0)) > 0.05:
        yield from_page(
            "loss-temperature-unusual-factor",
            f"the factor grows like T to the power {response.power:.2f}; customary are 0 and 2",
        )
    if response.hard_power is not None and abs(response.hard_power) > 0.05:
        yield from_page(
            "loss-temperature-in-hard-part",
            f"the labels' gradient grows like T to the power {response.hard_power:.2f}; customary is 0",
            f"temperature of its logits at {name} = 2: {subject.hard.temperature:.3g}",
        )


def _misplaced(subject: Subject, found: tuple[float, ...], requested: str) -> Finding:
    words = ", ".join(f"{one:.3g}" for one in found)
    inverted = all(abs(one * wanted - 1) < 0.02 for one, wanted in zip(found, _TRIED, strict=True))
    constant = max(found) - min(found) < 0.02 * max(found)
    why = (
        "the logits are multiplied by it"
        if inverted
        else "only the value is multiplied by it"
        if constant
        else "it is used in another way"
    )
    return from_page(
        "loss-temperature-misplaced",
        f"{subject.caller.temperature} = {requested} gives softmax temperatures {words}: {why}",
        severity="error" if inverted or constant else "warning",
    )

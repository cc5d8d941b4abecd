"""What a loss function's temperature does: where it enters, and how the gradient grows with it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from distillab.doctor.checks import from_page
from distillab.doctor.loss.formulas import Fit, best_temperature, fitted
from distillab.doctor.loss.subject import Subject, alike, measured_hard_part
from distillab.records.findings import Finding

_TRIED = (1.0, 2.0, 4.0)


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

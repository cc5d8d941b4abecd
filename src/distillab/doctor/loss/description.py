"""What a loss function is, in words, beside what is wrong with it."""

from __future__ import annotations

import torch

from distillab.doctor.loss.call import TRIED_TEMPERATURE
from distillab.doctor.loss.footprint import Footprint
from distillab.doctor.loss.formulas import Fit
from distillab.doctor.loss.reduction import Reduction
from distillab.doctor.loss.sample_problem import WATCHED, LogitBatch
from distillab.doctor.loss.subject import NOTHING_LEFT, Subject
from distillab.doctor.loss.temperature import TemperatureResponse
from distillab.doctor.page import from_page
from distillab.records.findings import Finding


def description(
    subject: Subject,
    *,
    fit: Fit | None,
    soft: Reduction | None,
    hard: Reduction | None,
    response: TemperatureResponse | None,
    reaches_teacher: bool,
) -> Finding:
    """Return the note on what the function computes."""
    short = [_formula(subject, fit), _factor(subject, fit, soft, response), _reduction(subject, soft, hard)]
    evidence = [", ".join(words for words in short if words)]
    if fit is not None:
        verb = "explains" if fit.holds else "comes nearest to, and does not explain,"
        evidence.append(f"{fit.words} {verb} the gradient: off by {fit.off:.1e} of its length")
    evidence.append(_value_at_teacher(subject, fit))
    if subject.hard.offset is not None:
        evidence.append(_hard_part(subject, hard))
    evidence.append(f"positions: {_positions(subject.footprint, subject.batch)} ({_called(subject)})")
    if subject.base.shape:
        evidence.append(f"it returns a tensor of shape {subject.base.shape}, which is summed here")
    evidence.append(
        "a gradient flows into the teacher's logits where they require one: compute them under torch.no_grad()"
        if reaches_teacher
        else "no gradient flows into the teacher's logits"
    )
    return from_page("loss-description", *evidence)


def _formula(subject: Subject, fit: Fit | None) -> str:
    if not subject.reads_teacher_alone:
        return "labels and teacher act together (an estimate at the labels' tokens, or labels as weights)"
    if fit is None:
        return "the teacher gives the weights of the labels' cross-entropy, and is not a target itself"
    return fit.words if fit.holds else "no known formula"


def _factor(
    subject: Subject, fit: Fit | None, soft: Reduction | None, response: TemperatureResponse | None
) -> str | None:
    if fit is None or not fit.holds or soft is None or soft.divisor is None:
        return None
    marks = torch.zeros_like(subject.footprint.teacher)
    in_row = fit.weights[torch.arange(len(fit.weights)) < int(subject.footprint.teacher[0].sum())]
    if float(in_row.max() - in_row.min()) > 2e-2 * float(in_row.abs().max()):
        return f"positions weigh differently, by up to {float(in_row.max() / in_row.min()):.3g} in one row"
    marks[0, WATCHED] = True
    factor = float(fit.weights[marks[subject.footprint.teacher]][0]) * soft.divisor.of(subject.batch)
    squared = response is not None and response.power is not None and abs(response.power - 2.0) < 0.05
    if squared:
        rest = factor / TRIED_TEMPERATURE**2
        return "times T²" if abs(rest - 1) < 1e-2 else f"times T² and {rest:.3g}"
    if fit.temperature != 1.0 and abs(factor / fit.temperature**2 - 1) < 1e-2:
        return "times T²"
    return None if abs(factor - 1) < 1e-2 else f"times {factor:.3g}"


def _reduction(subject: Subject, soft: Reduction | None, hard: Reduction | None) -> str:
    reduction = soft or hard
    if subject.base.shape:
        return "not reduced"
    if reduction is None or reduction.divisor is None:
        return "an unknown reduction"
    return reduction.divisor.words


def _value_at_teacher(subject: Subject, fit: Fit | None) -> str:
    value = subject.soft_value_at_teacher
    words = f"value of the teacher's part at student = teacher: {value:.4g}"
    if abs(value) < 1e-3 * max(abs(subject.soft_value), 1e-12) or subject.left_at_teacher > NOTHING_LEFT:
        return words
    if fit is not None and fit.holds and fit.formula.family == "forward_kl":
        at = subject.footprint.teacher
        logp = (subject.batch.teacher[at] / fit.temperature).double().log_softmax(-1)
        entropy = float((-(logp.exp() * logp).sum(-1) * fit.weights).sum())
        if abs(value / entropy - 1) < 1e-2:
            return words + ": the teacher's entropy (a cross-entropy; subtract it to get the KL)"
    return words + ": its lowest, neither 0 nor the teacher's entropy"


def _hard_part(subject: Subject, hard: Reduction | None) -> str:
    words = "labels: a cross-entropy"
    if hard is not None and hard.divisor is not None:
        weight = float(subject.hard.weight[0, WATCHED]) * hard.divisor.of(subject.batch) * subject.hard.temperature
        words += f", weight {weight / (1 - subject.hard.smoothing):.3g}, {hard.divisor.words}"
    if subject.hard.smoothing:
        words += f", label smoothing {subject.hard.smoothing:.3g}"
    return words


def _positions(footprint: Footprint, batch: LogitBatch) -> str:
    if torch.equal(footprint.teacher, batch.scored):
        return "the logits of t where the label of t+1 is scored"
    if torch.equal(footprint.teacher, batch.attention.bool()):
        return "all tokens"
    if footprint.teacher.all():
        return "all positions"
    return f"{int(footprint.teacher.sum())} of {footprint.teacher.numel()}, {int(batch.scored.sum())} are scored"


def _called(subject: Subject) -> str:
    return {
        "sequences": "given whole sequences and unshifted labels",
        "shifted": "given logits and labels that its caller has shifted",
        "scored": "given the scored positions alone",
    }[subject.caller.given]

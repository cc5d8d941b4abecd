"""Property tests of a function that computes a distillation loss, judged by its behaviour alone."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from distillab.doctor.checks import Scope, from_page, recorded
from distillab.doctor.loss.call import (
    TRIED_TEMPERATURE,
    WATCHED,
    Given,
    LogitBatch,
    LossCaller,
    LossFunction,
    Measured,
    Role,
    described_call,
    invented,
)
from distillab.doctor.loss.equality import equality_findings, softmax_findings, token_findings
from distillab.doctor.loss.formulas import PLAIN, WITH_SHARES, Fit, recognised
from distillab.doctor.loss.numerics import (
    TemperatureResponse,
    input_findings,
    measured_response,
    number_findings,
    temperature_findings,
)
from distillab.doctor.loss.positions import pairing_findings, position_findings, unshifted, unshifted_findings
from distillab.doctor.loss.reduction import Reduction, divisor_findings, measured_reductions
from distillab.doctor.loss.subject import NOTHING_LEFT, Footprint, Subject, alike, measured
from distillab.errors import ConfigError, near_names
from distillab.records.findings import CheckResult, Finding

_CALLED = {
    "sequences": "given whole sequences and unshifted labels",
    "shifted": "given logits and labels that its caller has shifted",
    "scored": "given the scored positions alone",
}
_ROUNDING = 1e-6
# Temperatures that are tried first where a formula is looked for.
_USUAL = (1.0, 2.0, 3.0, 4.0, 5.0, 0.5, 0.9)


def audit_loss(
    function: LossFunction,
    *,
    takes: Sequence[Role] | None = None,
    given: Given | None = None,
    temperature: str | None = None,
    expects: str | None = None,
    padded: bool = True,
    vocabulary: int = 23,
    seed: int = 0,
) -> CheckResult:
    """Examine a function that computes a distillation loss from logits.

    The function is called some hundred times on a small batch of random logits and on variations of it (another
    teacher at one position, more padding, other ids, …); what it computes is read from its values and gradients.

        audit_loss(my_loss)                                        # its parameters have the names of the roles
        audit_loss(lambda s, t, y: my_loss(s, t, y, beta=0.1), takes=("student_logits", "teacher_logits", "labels"))

    Args:
        function: takes float32 logits (B, L, V) of both models, int64 labels (B, L) with -100 where not scored, and an
            attention mask (B, L), as many of them as it needs; returns a tensor, a scalar as a rule.
        takes: the roles of its positional arguments; None: they are read from its parameters' names.
        given: "sequences" (logits as the models give them, labels not shifted), "shifted" (the caller cuts the last
            logits and the first labels), or "scored" (the scored positions alone, (N, V) and (N,)); None: whether it
            shifts is measured, and reported where it does not.
        temperature: the name of its temperature parameter; None: a parameter of a usual name, where there is one.
            It is given by name, 2 by default.
        expects: the divergence that it is meant to be, by the name that distillab gives it.
        padded: its batches contain padding.
        vocabulary: V, at least 20.
        seed: of the random logits.
    Returns:
        One CheckResult with all findings; the last one, a note, describes what the function computes.
    Raises:
        ConfigError: the function cannot be called so, returns no tensor, or a setting is wrong.
        Exception: whatever the function raises on an ordinary batch.
    """
    known = sorted({formula.family for formula in (*PLAIN, *WITH_SHARES)})
    if expects is not None and expects not in known:
        raise ConfigError("There is no such divergence.", facts=[f'got "{expects}"'], fix=near_names(expects, known))
    if vocabulary < 20:
        raise ConfigError("The vocabulary needs at least 20 tokens.", facts=[f"given: {vocabulary}"])
    caller = described_call(function, takes=takes, temperature=temperature, given=given or "sequences")
    batch = invented(vocabulary, padded=padded, seed=seed)
    with warnings.catch_warnings():
        # torch warns of some reductions at every call; what they do is found here by what they do
        warnings.simplefilter("ignore")
        found = list(_findings(caller, batch, stated=given is not None, padded=padded, expects=expects))
    name = getattr(function, "__qualname__", type(function).__name__)
    first_of_id: dict[str, Finding] = {}
    for finding in found:
        first_of_id.setdefault(finding.id, finding)
    return recorded("loss", iter((Scope(f"{name}: {batch.sizes}"), *first_of_id.values())))


def _findings(
    caller: LossCaller, batch: LogitBatch, *, stated: bool, padded: bool, expects: str | None
) -> Iterator[Finding]:
    base = caller(batch)
    stopped = _unusable(caller, batch, base)
    if stopped is not None:
        yield stopped
        return
    yield from input_findings(base.changed)
    subject = measured(caller, batch, base, padded=padded)
    if not stated and unshifted(subject):
        # consistently so: the function of a caller that shifts. It is examined as such from here on.
        yield from unshifted_findings(subject, severity="warning")
        caller = replace(caller, given="shifted")
        subject = measured(caller, batch, caller(batch), padded=padded)
    wrong_softmax = list(softmax_findings(subject))
    yield from wrong_softmax
    if wrong_softmax:
        return
    if subject.footprint.offset is None:
        yield _ignores_teacher(subject)
    yield from position_findings(subject)
    if subject.footprint.offset is None:
        return
    yield from pairing_findings(subject)
    if subject.footprint.offset or subject.footprint.of_other_rows:
        return
    fit = _formula(subject)
    yield from equality_findings(subject, fit)
    soft, hard = measured_reductions(caller, batch, subject.hard, padded=padded)
    yield from divisor_findings(subject, soft, "the teacher's part", fit)
    yield from divisor_findings(subject, hard, "the labels' cross-entropy", None)
    response = measured_response(subject, fit)
    yield from temperature_findings(subject, response)
    yield from token_findings(subject)
    yield from number_findings(subject)
    yield from _other_than_expected(subject, fit, expects)
    yield description(
        subject, fit=fit, soft=soft, hard=hard, response=response, reaches_teacher=caller.reaches_teacher(batch)
    )


def _formula(subject: Subject) -> Fit | None:
    if not subject.reads_teacher_alone or not subject.teacher_is_target:
        return None
    at = subject.footprint.teacher
    return recognised(subject.batch.student[at], subject.batch.teacher[at], subject.soft_gradient[at], _USUAL)


def _unusable(caller: LossCaller, batch: LogitBatch, base: Measured) -> Finding | None:
    """Return the finding that makes every further measurement meaningless, if there is one."""
    if not base.finite:
        return from_page(
            "loss-not-a-number",
            f"value {base.value:g} on logits between {batch.teacher.min():.1f} and {batch.teacher.max():.1f}",
        )
    if not alike(base, caller(batch)):
        return from_page("loss-not-repeatable", f"value {base.value:.5g}, then {caller(batch).value:.5g}")
    # the gradient of a sound loss is some thousandths of its value here; what is left where all cancels is rounding
    if float(base.gradient.abs().max()) <= _ROUNDING * abs(base.value):
        return from_page(
            "loss-without-gradient", f"value {base.value:.4g}, largest gradient {base.gradient.abs().max():.1g}"
        )
    return None


def _ignores_teacher(subject: Subject) -> Finding:
    by_value = bool(subject.footprint.teacher.any())
    return from_page(
        "loss-ignores-teacher",
        "other teacher logits, at any position: "
        + ("another value, but the same gradient" if by_value else "the same value and the same gradient"),
    )


def _other_than_expected(subject: Subject, fit: Fit | None, expects: str | None) -> Iterator[Finding]:
    if fit is None or not fit.holds or fit.formula.mistake is not None:
        return
    name = getattr(subject.caller.function, "__name__", "").lower()
    named = next((f"{word}_kl" for word in ("forward", "reverse") if word in name), None)
    by_name = expects in (None, fit.formula.family)
    if by_name and {named, fit.formula.family} != {"forward_kl", "reverse_kl"}:
        return
    yield from_page(
        "loss-another-divergence",
        f"its name: {name}" if by_name else f"expected: {expects}",
        f"by its gradient: {fit.words} (off by {fit.off:.1e})",
        severity="warning" if by_name else "error",
    )


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
    short = [_named_formula(subject, fit), _factor(subject, fit, soft, response), _reduction(subject, soft, hard)]
    evidence = [", ".join(words for words in short if words)]
    if fit is not None:
        verb = "explains" if fit.holds else "comes nearest to, and does not explain,"
        evidence.append(f"{fit.words} {verb} the gradient: off by {fit.off:.1e} of its length")
    evidence.append(_value_at_teacher(subject, fit))
    if subject.hard.offset is not None:
        evidence.append(_hard_part(subject, hard))
    evidence.append(f"positions: {_positions(subject.footprint, subject.batch)} ({_CALLED[subject.caller.given]})")
    if subject.base.shape:
        evidence.append(f"it returns a tensor of shape {subject.base.shape}, which is summed here")
    evidence.append(
        "a gradient flows into the teacher's logits where they require one: compute them under torch.no_grad()"
        if reaches_teacher
        else "no gradient flows into the teacher's logits"
    )
    return from_page("loss-description", *evidence)


def _named_formula(subject: Subject, fit: Fit | None) -> str:
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

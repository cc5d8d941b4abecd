"""Property tests of a function that computes a distillation loss, judged by its behaviour alone."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

from distillab.doctor.loss.call import Given, LossCaller, LossFunction, Measured, Role, described_call
from distillab.doctor.loss.description import description
from distillab.doctor.loss.equality import equality_findings
from distillab.doctor.loss.formulas import PLAIN, WITH_SHARES, Fit, recognised
from distillab.doctor.loss.numerics import input_findings, number_findings
from distillab.doctor.loss.positions import pairing_findings, position_findings, unshifted, unshifted_findings
from distillab.doctor.loss.reduction import divisor_findings, measured_reductions
from distillab.doctor.loss.sample_problem import LogitBatch, invented
from distillab.doctor.loss.subject import Subject, alike, measured
from distillab.doctor.loss.temperature import measured_response, temperature_findings
from distillab.doctor.loss.vocabulary import softmax_findings, token_findings
from distillab.doctor.page import from_page
from distillab.errors import ConfigError, near_names
from distillab.records.findings import CheckResult, Finding

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
        findings = _checked(caller, batch, stated=given is not None, padded=padded, expects=expects)
    name = getattr(function, "__qualname__", type(function).__name__)
    return CheckResult(check="loss", scope=f"{name}: {batch.sizes}", findings=tuple(findings))


def _checked(
    caller: LossCaller, batch: LogitBatch, *, stated: bool, padded: bool, expects: str | None
) -> list[Finding]:
    base = caller(batch)
    stopped = _unusable(caller, batch, base)
    if stopped is not None:
        return [stopped]
    findings = list(input_findings(base.changed))
    subject = measured(caller, batch, base, padded=padded)
    if not stated and unshifted(subject):
        # consistently so: the function of a caller that shifts. It is examined as such from here on.
        findings += unshifted_findings(subject, severity="warning")
        caller = replace(caller, given="shifted")
        base = caller(batch)
        subject = measured(caller, batch, base, padded=padded)
    wrong_softmax = list(softmax_findings(subject))
    if wrong_softmax:
        return findings + wrong_softmax
    if subject.footprint.offset is None:
        return [*findings, _ignores_teacher(subject), *position_findings(subject)]
    findings += position_findings(subject)
    findings += pairing_findings(subject)
    if subject.footprint.offset or subject.footprint.of_other_rows:
        return findings
    fit = _formula(subject)
    findings += equality_findings(subject, fit)
    soft, hard = measured_reductions(caller, batch, subject.hard, padded=padded)
    findings += divisor_findings(subject, soft, "the teacher's part", fit)
    findings += divisor_findings(subject, hard, "the labels' cross-entropy", None)
    response = measured_response(subject, fit)
    findings += temperature_findings(subject, response)
    named = {finding.id for finding in findings}
    findings += [finding for finding in token_findings(subject) if finding.id not in named]
    findings += number_findings(subject)
    findings += _other_than_expected(subject, fit, expects)
    first_of_id = {finding.id: finding for finding in reversed(findings)}
    findings = [finding for finding in findings if first_of_id[finding.id] is finding]
    note = description(
        subject, fit=fit, soft=soft, hard=hard, response=response, reaches_teacher=caller.reaches_teacher(batch)
    )
    return [*findings, note]


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


def _other_than_expected(subject: Subject, fit: Fit | None, expects: str | None) -> list[Finding]:
    if fit is None or not fit.holds or fit.formula.mistake is not None:
        return []
    if expects is not None and fit.formula.family != expects:
        return [_is_another(f"expected: {expects}", fit, by_name=False)]
    name = getattr(subject.caller.function, "__name__", "").lower()
    for word, family in (("forward", "forward_kl"), ("reverse", "reverse_kl")):
        if word in name and {family, fit.formula.family} == {"forward_kl", "reverse_kl"}:
            return [_is_another(f"its name: {name}", fit, by_name=True)]
    return []


def _is_another(stated: str, fit: Fit, *, by_name: bool) -> Finding:
    return from_page(
        "loss-another-divergence",
        stated,
        f"by its gradient: {fit.words} (off by {fit.off:.1e})",
        severity="warning" if by_name else "error",
    )

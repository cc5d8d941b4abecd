"""Derive conclusions from the findings of a record: a summary, and recommendations in phases."""

from __future__ import annotations

import re
from collections.abc import Sequence

from distillab.records import (
    ACCESS_ORDER,
    SEVERITY_ORDER,
    Conclusions,
    Finding,
    Investigation,
    MethodAdmission,
    PairCheck,
    Phase,
    Severity,
)

# A sentence ends before a capital; "e.g." and "0.5" do not end one.
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")

_PREFLIGHT = "arms"  # one of its checks; if it was done, it is not recommended again
_CHOOSE = "Choose a valid path"
_STOP = f"stop comparing ids; what is valid instead is listed under “{_CHOOSE}”"
# severity, title of the phase, whether every fix of a finding belongs there
_BY_SEVERITY: tuple[tuple[Severity, str, bool], ...] = (
    ("error", "Fix the errors first", True),
    ("warning", "Check the warnings", False),
)


def concluded(investigation: Investigation) -> Investigation:
    """Return the investigation with its conclusions, derived again."""
    conclusions = Conclusions(summary=_summary(investigation), phases=_phases(investigation))
    return investigation.model_copy(update={"conclusions": conclusions})


def counted(findings: Sequence[Finding]) -> str:
    """Return how many of each severity, `2 errors, 1 warning`; "nothing was found" if there is none."""
    parts = [
        f"{number} {severity if number == 1 else severity + 's'}"
        for severity in SEVERITY_ORDER
        if (number := sum(finding.severity == severity for finding in findings))
    ]
    return ", ".join(parts) if parts else "nothing was found"


def by_access(methods: Sequence[MethodAdmission], *, admitted: bool) -> tuple[str, ...]:
    """Return the valid methods, or the refused ones, by what they read of the teacher: `text: seqkd, on_policy`."""
    lines = []
    for access in ACCESS_ORDER:
        names = [method.method for method in methods if method.access == access and method.admitted is admitted]
        if names:
            lines.append(f"{access}: {', '.join(names)}")
    return tuple(lines)


def _summary(investigation: Investigation) -> tuple[str, ...]:
    return (*investigation.outlook, *_found(investigation))


def _found(investigation: Investigation) -> tuple[str, ...]:
    if investigation.skipped is not None:
        return (f"Nothing was checked: the checks were skipped by {investigation.skipped}.",)
    findings = investigation.findings
    done = [one for one in investigation.checks if one.skipped is None]
    if not done:
        return ("No check could be done.", *_skipped(investigation))
    causes = [finding for finding in findings if not finding.follows_from]
    effects = [finding for finding in findings if finding.follows_from]
    lines = [_lead(findings, len(done))]
    lines += [
        f"{finding.title} {_first_sentence(finding.explanation)}" for finding in causes if finding.severity == "error"
    ]
    if effects:
        lines.append("Consequences of these: " + " ".join(_with_causes(finding) for finding in effects))
    warnings = [finding.title for finding in causes if finding.severity == "warning"]
    if warnings:
        lines.append("Warnings: " + " ".join(warnings))
    if investigation.pairing is not None:
        lines.append(_of_pair(investigation.pairing))
    return (*lines, *_skipped(investigation))


def _lead(findings: Sequence[Finding], done: int) -> str:
    by = f"by {done} check{'s' if done != 1 else ''}"
    if not findings:
        return f"Nothing was found {by}."
    lead = f"{counted(findings).capitalize()}, {by}."
    errors = sum(finding.severity == "error" for finding in findings)
    if not errors and any(finding.severity == "warning" for finding in findings):
        return f"{lead} No error, but a warning can make the values wrong: check each one first."
    if not errors:
        return f"{lead} No error: no check found a cause of wrong values."
    which = "these errors" if errors > 1 else "this error"
    return f"{lead} With {which} the measured values are wrong: fix first, then measure again."


def _with_causes(finding: Finding) -> str:
    return f"{finding.title.rstrip('.')} ({', '.join(finding.follows_from)})."


def _first_sentence(text: str) -> str:
    return _SENTENCE_END.split(text, maxsplit=1)[0]


def _of_pair(pairing: PairCheck) -> str:
    contract = pairing.contract
    valid = sum(method.admitted for method in pairing.methods)
    return (
        f"The tokenizers of {contract.teacher.name} (teacher) and {contract.student.name} (student) are "
        f"{contract.verdict}: {valid} of {len(pairing.methods)} methods are valid for this pair; begin with "
        f"{pairing.recommended.method}."
    )


def _skipped(investigation: Investigation) -> tuple[str, ...]:
    left = [one.check for one in investigation.checks if one.skipped is not None]
    return (f"Not checked: {', '.join(left)}.",) if left else ()


def _phases(investigation: Investigation) -> tuple[Phase, ...]:
    if investigation.skipped is not None:
        return (Phase(title="Check", steps=(f"run the same command without {investigation.skipped}",)),)
    pairing = investigation.pairing
    phases = _fixing(investigation.findings, () if pairing is None else pairing.ways_out)
    if pairing is not None:
        phases.append(_path(pairing))
    return (*phases, _verifying(investigation))


def _fixing(findings: Sequence[Finding], ways_out: tuple[str, ...]) -> list[Phase]:
    causes = [finding for finding in findings if not finding.follows_from]
    phases = []
    for severity, title, every in _BY_SEVERITY:
        steps = [
            step for finding in causes if finding.severity == severity for step in _steps(finding, every, ways_out)
        ]
        if steps:
            phases.append(Phase(title=title, steps=tuple(dict.fromkeys(steps))))
    return phases


def _steps(finding: Finding, every: bool, ways_out: tuple[str, ...]) -> list[str]:
    if ways_out and finding.fix == ways_out:
        return [f"{finding.id}: {_STOP}"]
    return [f"{finding.id}: {step}" for step in (finding.fix if every else finding.fix[:1])]


def _path(pairing: PairCheck) -> Phase:
    begin = f"with this pair begin with method: {pairing.recommended.method}"
    if not pairing.ways_out:
        valid = by_access(pairing.methods, admitted=True)
        return Phase(title="Choose a method", steps=(begin, *(f"valid, {line}" for line in valid)))
    refused = [method.method for method in pairing.methods if not method.admitted]
    text = [method.method for method in pairing.methods if method.admitted and method.access == "text"]
    return Phase(
        title=_CHOOSE,
        steps=(
            *pairing.ways_out,
            f"white box: {', '.join(refused)} only after the tokens are made the same (path A); the methods of path C "
            f"align them. Black box: {', '.join(text)} as it is",
            begin,
        ),
    )


def _verifying(investigation: Investigation) -> Phase:
    errors = any(finding.severity == "error" for finding in investigation.findings)
    steps = [
        "run the doctor again after the fixes: no error must be left"
        if errors
        else "run the doctor again after every change of data, loss or pair"
    ]
    effects = dict.fromkeys(finding.id for finding in investigation.findings if finding.follows_from)
    if effects:
        steps.append(f"check the log of the fixed run: {', '.join(effects)} must be gone")
    reasons = dict.fromkeys(one.skipped for one in investigation.checks if one.skipped is not None)
    for reason in reasons:
        checks = [one.check for one in investigation.checks if one.skipped == reason]
        steps.append(f"not checked yet: {', '.join(dict.fromkeys(checks))} ({reason})")
    if not any(one.check == _PREFLIGHT for one in investigation.checks):
        steps.append("before a long run: distillab doctor preflight RECIPE")
    steps += [
        "then a short study with plain fine-tuning (sft) as baseline: distillab compare RECIPE; the held-out loss must "
        "come below the unigram line, and a method is worth its cost if it is below sft",
    ]
    return Phase(title="Verify", steps=tuple(steps))

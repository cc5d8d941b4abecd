"""Convert an investigation to the plain values that the HTML and Markdown templates print."""

from __future__ import annotations

from dataclasses import dataclass

from distillab.records import Finding, Investigation, PairCheck, Phase
from distillab.report import sections
from distillab.report.findings import concluded, counted

NO_PAIR = "No pair of tokenizers was given, so no method is checked: use `distillab check TEACHER STUDENT`."


@dataclass(frozen=True)
class Doctor:
    """Findings and scopes; on a study's page too."""

    counts: str
    findings: tuple[Finding, ...]
    checks: sections.Grid
    skipped: str | None


@dataclass(frozen=True)
class Pair:
    """The valid methods of the pair."""

    recommended: str
    because: tuple[str, ...]
    methods: sections.Grid
    contract: sections.Contract


@dataclass(frozen=True)
class InvestigationPage:
    """Everything that an investigation report shows, in its order."""

    subject: str
    summary: tuple[str, ...]
    doctor: Doctor
    pair: Pair | None
    no_pair: str
    phases: tuple[Phase, ...]


def page_of(investigation: Investigation) -> InvestigationPage:
    """Return the page of an investigation, its conclusions derived again."""
    conclusions = concluded(investigation).conclusions
    assert conclusions is not None  # `concluded` makes them
    return InvestigationPage(
        subject=investigation.subject,
        summary=conclusions.summary,
        doctor=doctor_of(investigation),
        pair=None if investigation.pairing is None else _pair(investigation.pairing),
        no_pair=NO_PAIR,
        phases=conclusions.phases,
    )


def doctor_of(investigation: Investigation) -> Doctor:
    """Return the findings of an investigation, the most severe first, and the scopes."""
    rows = tuple(
        (
            one.check,
            one.scope,
            f"not checked: {one.skipped}" if one.skipped is not None else counted(one.findings),
        )
        for one in investigation.checks
    )
    grid = sections.Grid("Every check and its result", ("check", "scope", "result"), rows)
    return Doctor(counted(investigation.findings), investigation.findings, grid, investigation.skipped)


def _pair(found: PairCheck) -> Pair:
    rows = tuple(
        (method.method, "valid" if method.admitted else "refused", method.access, method.reason)
        for method in found.methods
    )
    grid = sections.Grid("Methods", ("method", "for this pair", "what it reads of the teacher", "why"), rows)
    return Pair(found.recommended.method, found.recommended.because, grid, sections.contract(found.contract))

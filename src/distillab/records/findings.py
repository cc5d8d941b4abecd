"""Records of the doctor's checks and findings, from which its report is made."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from distillab.records.base import SCHEMA_VERSION, Record
from distillab.records.pairing import PairCheck

Severity = Literal["error", "warning", "note"]
SEVERITY_ORDER: tuple[Severity, ...] = ("error", "warning", "note")


class Finding(Record):
    """One error, warning or note."""

    id: str = Field(description="`distillab doctor explain ID` prints its page")
    severity: Severity = Field(description="error: the measured values are wrong; warning: they can be; note")
    title: str = Field(description="one sentence without figures")
    evidence: tuple[str, ...] = Field(description="the facts, one a line, with figures and units")
    example: tuple[str, ...] = Field(default=(), description="an example from the data, line by line")
    explanation: str = Field(description="what it means, for a reader who does not know it")
    fix: tuple[str, ...] = Field(description="what to do, the most reliable first; a line of config if there is one")
    follows_from: tuple[str, ...] = Field(
        default=(), description="ids of findings of the same investigation that explain this one"
    )


class CheckResult(Record):
    """One check: its scope and its findings."""

    check: str
    scope: str = Field(description="what was checked, with numbers: 64 rows, 5,120 scored tokens")
    skipped: str | None = Field(default=None, description="why the check was not done")
    findings: tuple[Finding, ...] = ()


class Phase(Record):
    """One phase of the recommendations."""

    title: str
    steps: tuple[str, ...]


class Conclusions(Record):
    """Conclusions from the findings, derived from the rest of the investigation, the same in every format."""

    summary: tuple[str, ...] = Field(description="what is wrong, a sentence or two each")
    phases: tuple[Phase, ...] = Field(description="what to do, in this order")


class Investigation(Record):
    """The findings of one call of the doctor."""

    schema_version: int = SCHEMA_VERSION
    subject: str = Field(description="the file, folder, function or pair that was checked")
    checks: tuple[CheckResult, ...]
    pairing: PairCheck | None = Field(
        default=None, description="what the two tokenizers have in common and which methods are valid, if known"
    )
    skipped: str | None = Field(default=None, description="the flag by which the user skipped the checks")
    outlook: tuple[str, ...] = Field(
        default=(), description="warnings shown first: a student that begins or ends worse than expected"
    )
    conclusions: Conclusions | None = Field(
        default=None, description="made by `report.findings.concluded`; None until then"
    )

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings, the most severe first; within a severity in the order in which they were found."""
        every = [finding for one in self.checks for finding in one.findings]
        return tuple(sorted(every, key=lambda finding: SEVERITY_ORDER.index(finding.severity)))

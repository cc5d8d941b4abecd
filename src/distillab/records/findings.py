"""What an examination found: the records that a doctor's report is made from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from distillab.records.base import SCHEMA_VERSION, Record
from distillab.records.pairing import PairCheck

Severity = Literal["error", "warning", "note"]
SEVERITY_ORDER: tuple[Severity, ...] = ("error", "warning", "note")


class Finding(Record):
    """One thing that is wrong, or worth knowing."""

    id: str = Field(description="`distillab doctor explain ID` prints its page")
    severity: Severity = Field(description="error: the values are not what they are taken for; warning: may be; note")
    title: str = Field(description="one sentence without figures")
    evidence: tuple[str, ...] = Field(description="the facts, one a line, with figures and units")
    example: tuple[str, ...] = Field(default=(), description="a piece of the examined data, line by line")
    explanation: str = Field(description="what it means, for a reader who has never met it")
    fix: tuple[str, ...] = Field(description="what to do, the surest first; a line of config where there is one")
    follows_from: tuple[str, ...] = Field(
        default=(), description="ids of findings of the same investigation that explain this one"
    )


class CheckResult(Record):
    """One check: its scope and its findings."""

    check: str
    scope: str = Field(description="what was examined, with numbers: 64 rows, 5,120 scored tokens")
    skipped: str | None = Field(default=None, description="why the check had nothing to look at")
    findings: tuple[Finding, ...] = ()


class Phase(Record):
    """One step of the way out."""

    title: str
    steps: tuple[str, ...]


class Conclusions(Record):
    """What follows from the findings: derived from the rest of the investigation alone, so that every form has it."""

    summary: tuple[str, ...] = Field(description="what is wrong, a sentence or two each")
    phases: tuple[Phase, ...] = Field(description="what to do, in this order")


class Investigation(Record):
    """All that one call of the doctor found."""

    schema_version: int = SCHEMA_VERSION
    subject: str = Field(description="the file, folder, function or pair that was examined")
    checks: tuple[CheckResult, ...]
    pairing: PairCheck | None = Field(
        default=None, description="what the two tokenizers have in common and which methods are valid, where known"
    )
    skipped: str | None = Field(default=None, description="the flag by which the user left the examination out")
    outlook: tuple[str, ...] = Field(
        default=(), description="what must be known before all else: a student that begins or ends worse than it should"
    )
    conclusions: Conclusions | None = Field(
        default=None, description="made by `report.findings.concluded`; None until then"
    )

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings, the gravest first; within a severity in the order in which they were found."""
        every = [finding for one in self.checks for finding in one.findings]
        return tuple(sorted(every, key=lambda finding: SEVERITY_ORDER.index(finding.severity)))

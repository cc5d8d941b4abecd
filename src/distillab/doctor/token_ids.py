"""Check whether two vocabularies are compared by id, from the logs and the two tokenizers."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from distillab.doctor.pair.contract import check_contract
from distillab.doctor.pair.subject import PairSubject
from distillab.records import CheckResult, Finding

Compares = Literal["ids", "aligned", "text"]

UNRELATED = "pair-ids-unrelated"


def check_token_ids(subject: PairSubject, *, compares: Compares | None, by_id: tuple[str, ...]) -> CheckResult:
    """Check the contract of two tokenizers, with the severity that follows from the loss.

    If equal ids mean different tokens, it is an error if the loss compares ids, a warning if this is unknown, and a
    note if the loss compares something else.

    Args:
        subject: its `compares_by_index` is not used.
        compares: what the loss compares, from the user; None: unknown.
        by_id: evidence from logs that the loss compares ids.
    """
    known = (*(("the loss compares ids (--compares ids)",) if compares == "ids" else ()), *by_id)
    elsewhere = not known and compares is not None
    result = check_contract(replace(subject, compares_by_index=not elsewhere))
    if elsewhere:
        return result
    findings = tuple(_known(f, known) if f.id == UNRELATED else f for f in result.findings)
    return result.model_copy(update={"findings": findings})


def _known(finding: Finding, known: tuple[str, ...]) -> Finding:
    if known:
        title = "Equal ids mean different tokens, and the loss compares the two models by id."
        return finding.model_copy(update={"title": title, "evidence": (*finding.evidence, *known)})
    unknown = "unknown whether the loss compares ids: give --compares, or a log of distillab"
    return finding.model_copy(update={"severity": "warning", "evidence": (*finding.evidence, unknown)})

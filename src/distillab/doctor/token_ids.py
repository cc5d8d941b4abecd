"""Are two vocabularies compared by id? The logs, beside the two tokenizers."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from distillab.doctor.pair.contract import check_contract
from distillab.doctor.pair.subject import PairSubject
from distillab.records import CheckResult, Finding

Compares = Literal["ids", "aligned", "text"]

UNRELATED = "pair-ids-unrelated"


def check_token_ids(subject: PairSubject, *, compares: Compares | None, by_id: tuple[str, ...]) -> CheckResult:
    """The contract of two tokenizers, judged with what is known of the loss.

    Where equal ids mean other tokens, it is an error if ids are known to be compared, a warning if nothing is known,
    and a note if the loss is known to compare something else.

    Args:
        subject: `compares_by_index` of it is not read.
        compares: what the loss compares, as the user gives it; None: not given.
        by_id: facts from logs that show that the loss compares ids.
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
    unknown = "whether the loss compares ids is not known: give --compares, or a log of distillab"
    return finding.model_copy(update={"severity": "warning", "evidence": (*finding.evidence, unknown)})

"""Check what the two tokenizers have in common, and whether a loss compares their ids."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from distillab.doctor.checks import Checked, Scope, check, from_page
from distillab.doctor.pair.subject import PairSubject
from distillab.pairing.admission import ids_line, pair_check, tokens_line
from distillab.records import CheckResult, Finding, SideBySide, TokenizerContract

_DANGER = "danger: "

Compares = Literal["ids", "aligned", "text"]

UNRELATED = "pair-ids-unrelated"


@check("tokenizers")
def check_contract(subject: PairSubject) -> Checked:
    """Check whether equal ids mean the same, and what else differs between the two tokenizers."""
    contract = subject.contract
    yield Scope(
        f"{contract.teacher.tokens:,} tokens of the teacher, {contract.student.tokens:,} of the student; "
        f"{contract.data.rows:,} texts of {contract.data.source}: {contract.verdict}"
    )
    if contract.verdict == "different":
        yield _unrelated(contract, compared=subject.compares_by_index)
    elif contract.verdict != "identical":
        yield _wider(contract)
    dangers = [note.removeprefix(_DANGER) for note in contract.notes if note.startswith(_DANGER)]
    if dangers:
        yield from_page("pair-logits-too-narrow", *dangers)
    others = [note for note in contract.notes if not note.startswith(_DANGER)]
    if others:
        example = side_by_side_lines(contract.probes_differ[0]) if contract.probes_differ else ()
        yield from_page("pair-reads-otherwise", *others, example=example)


def _unrelated(contract: TokenizerContract, *, compared: bool) -> Finding:
    share = contract.data.equal_ids_by_position
    would_train = [f"would train: {line}" for line in contract.would_train] if compared else []
    return from_page(
        "pair-ids-unrelated",
        contract.reason,
        f"{share:.1%} of the positions of {contract.data.source} have the same id in both",
        case="compared" if compared else "not compared",
        example=(*side_by_side_lines(contract.example), *would_train),
        fix=pair_check(contract).ways_out if compared else (),
    )


def _wider(contract: TokenizerContract) -> Finding:
    both = (("teacher", contract.teacher), ("student", contract.student))
    sides = [f"{model}: {side.tokens:,} tokens, {_width(side.logits_width)}" for model, side in both]
    extra = " ".join(map(repr, contract.extra_tokens[:8]))
    return from_page(
        "pair-vocabulary-wider",
        contract.reason,
        *sides,
        f"in one vocabulary only: {extra}" if extra else None,
        words={"shared_ids": f"{contract.shared_width:,}", "shared_width": contract.shared_width},
    )


def side_by_side_lines(example: SideBySide, names: tuple[str, str] = ("teacher", "student")) -> tuple[str, ...]:
    """Return a text, and its ids and tokens by both tokenizers, a line each."""
    return (
        repr(example.text),
        f"{names[0]}  {ids_line(example.teacher_ids)}  {tokens_line(example.teacher_tokens)}",
        f"{names[1]}  {ids_line(example.student_ids)}  {tokens_line(example.student_tokens)}",
    )


def _width(width: int | None) -> str:
    return "logits of unknown width" if width is None else f"{width:,} logits"


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

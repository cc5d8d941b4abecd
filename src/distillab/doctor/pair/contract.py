"""Check what the two tokenizers have in common."""

from __future__ import annotations

from distillab.doctor.page import from_page
from distillab.doctor.pair.subject import PairSubject
from distillab.pairing.admission import ids_line, pair_check, tokens_line
from distillab.records import CheckResult, Finding, SideBySide, TokenizerContract

CHECK_ID = "tokenizers"
_DANGER = "danger: "


def check_contract(subject: PairSubject) -> CheckResult:
    """Check whether equal ids mean the same, and what else differs between the two tokenizers."""
    contract = subject.contract
    findings: list[Finding] = []
    if contract.verdict == "different":
        findings.append(_unrelated(contract, compared=subject.compares_by_index))
    elif contract.verdict != "identical":
        findings.append(_wider(contract))
    dangers = [note.removeprefix(_DANGER) for note in contract.notes if note.startswith(_DANGER)]
    if dangers:
        findings.append(_too_narrow(dangers))
    others = [note for note in contract.notes if not note.startswith(_DANGER)]
    if others:
        findings.append(_reads_otherwise(contract, others))
    scope = (
        f"{contract.teacher.tokens:,} tokens of the teacher, {contract.student.tokens:,} of the student; "
        f"{contract.data.rows:,} texts of {contract.data.source}"
    )
    return CheckResult(check=CHECK_ID, scope=f"{scope}: {contract.verdict}", findings=tuple(findings))


def _unrelated(contract: TokenizerContract, *, compared: bool) -> Finding:
    share = contract.data.equal_ids_by_position
    evidence = (
        contract.reason,
        f"{share:.1%} of the positions of {contract.data.source} have the same id in both",
    )
    if not compared:
        return from_page(
            "pair-ids-unrelated", *evidence, case="not compared", example=side_by_side_lines(contract.example)
        )
    return from_page(
        "pair-ids-unrelated",
        *evidence,
        case="compared",
        example=(*side_by_side_lines(contract.example), *(f"would train: {line}" for line in contract.would_train)),
        fix=pair_check(contract).ways_out,
    )


def _wider(contract: TokenizerContract) -> Finding:
    both = (("teacher", contract.teacher), ("student", contract.student))
    sides = [f"{model}: {side.tokens:,} tokens, {_width(side.logits_width)}" for model, side in both]
    extra = (
        f"in one vocabulary only: {' '.join(map(repr, contract.extra_tokens[:8]))}" if contract.extra_tokens else None
    )
    return from_page(
        "pair-vocabulary-wider",
        contract.reason,
        *sides,
        *([extra] if extra else []),
        words={"shared_ids": f"{contract.shared_width:,}", "shared_width": contract.shared_width},
    )


def _too_narrow(dangers: list[str]) -> Finding:
    return from_page("pair-logits-too-narrow", *dangers)


def _reads_otherwise(contract: TokenizerContract, notes: list[str]) -> Finding:
    return from_page(
        "pair-reads-otherwise",
        *notes,
        example=side_by_side_lines(contract.probes_differ[0]) if contract.probes_differ else (),
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

"""Check: what the two tokenizers have in common."""

from __future__ import annotations

from distillab.doctor.pair.subject import PairSubject
from distillab.pairing.admission import ids_line, pair_check, tokens_line
from distillab.records import CheckResult, Finding, SideBySide, TokenizerContract

CHECK_ID = "tokenizers"
_DANGER = "danger: "


def check_contract(subject: PairSubject) -> CheckResult:
    """Do equal ids mean the same, and what else differs in how the two read a text?"""
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
        f"{share:.1%} of the positions of {contract.data.source} hold the same id on both sides",
    )
    if not compared:
        return Finding(
            id="pair-ids-unrelated",
            severity="note",
            title="Equal ids mean different tokens, and nothing compares by them.",
            evidence=evidence,
            example=_side_by_side(contract.example),
            explanation="Methods that compare ids, or states position by position, are not valid for this pair. Those "
            "that read text, and those made for two tokenisations, are.",
            fix=("distillab check TEACHER STUDENT lists the valid methods",),
        )
    return Finding(
        id="pair-ids-unrelated",
        severity="error",
        title="Equal ids mean different tokens, and a loss that compares by id would compare them.",
        evidence=evidence,
        example=(*_side_by_side(contract.example), *(f"trained would be: {said}" for said in contract.would_train)),
        explanation="The student would be pushed towards tokens that happen to have the same number. Hidden states and "
        "attention maps compared position by position belong to different words in the same way.",
        fix=pair_check(contract).ways_out,
    )


def _wider(contract: TokenizerContract) -> Finding:
    both = (("teacher", contract.teacher), ("student", contract.student))
    sides = [f"{who}: {side.tokens:,} tokens, {_width(side.logits_width)}" for who, side in both]
    extra = f"on one side only: {' '.join(map(repr, contract.extra_tokens[:8]))}" if contract.extra_tokens else None
    return Finding(
        id="pair-vocabulary-wider",
        severity="note",
        title="The ids mean the same, but the two sides do not have equally many.",
        evidence=(contract.reason, *sides, *([extra] if extra else [])),
        explanation=f"A loss may compare the ids below {contract.shared_width:,}, with both sides' probabilities "
        "normalised over these. distillab does so by itself; elsewhere a padded or repeated tensor is a common "
        "mistake.",
        fix=(f"in another trainer: logits[..., :{contract.shared_width}] on both sides, before the softmax",),
    )


def _too_narrow(dangers: list[str]) -> Finding:
    return Finding(
        id="pair-logits-too-narrow",
        severity="warning",
        title="A tokenizer makes ids that its model does not have.",
        evidence=tuple(dangers),
        explanation="A text with such a token crashes the model, or on a GPU reads memory of something else. Tokens "
        "were added to the tokenizer and not to the model, or the two do not belong together.",
        fix=("use the tokenizer that was published with the weights", "or resize the embeddings and train them"),
    )


def _reads_otherwise(contract: TokenizerContract, notes: list[str]) -> Finding:
    return Finding(
        id="pair-reads-otherwise",
        severity="note",
        title="The two tokenizers treat something in another way.",
        evidence=tuple(notes),
        example=_side_by_side(contract.probes_differ[0]) if contract.probes_differ else (),
        explanation="Begin and end tokens, chat templates and the cutting of rare texts are settings of a tokenizer, "
        "not of the vocabulary. The teacher is asked in the form of the run, which may not be the one that it learned.",
        fix=(
            "in the run both should read one form: data.template",
            "the checks 'begin token' and 'template' measure what each form costs the teacher",
        ),
    )


def _side_by_side(example: SideBySide) -> tuple[str, ...]:
    return (
        repr(example.text),
        f"teacher  {ids_line(example.teacher_ids)}  {tokens_line(example.teacher_tokens)}",
        f"student  {ids_line(example.student_ids)}  {tokens_line(example.student_tokens)}",
    )


def _width(width: int | None) -> str:
    return "logits of unknown width" if width is None else f"{width:,} logits"

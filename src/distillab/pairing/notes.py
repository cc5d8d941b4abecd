"""Write the sentences of a tokenizer contract: warnings, and what a loss by id would train."""

from __future__ import annotations

from collections.abc import Sequence

from distillab.pairing.token_bytes import TokenMeaning
from distillab.records import SideBySide, TokenizerInfo


def named(meanings: Sequence[TokenMeaning], id_: int | None) -> str:
    """Format a token for a message: its text in quotes, its bytes if they are not text, or "(no token)"."""
    if id_ is None or id_ >= len(meanings) or meanings[id_].kind == "unused":
        return "(no token)"
    try:
        return repr(meanings[id_].data.decode("utf-8"))
    except UnicodeDecodeError:
        return repr(meanings[id_].data)


def would_train(
    example: SideBySide,
    teacher_meanings: Sequence[TokenMeaning],
    student_meanings: Sequence[TokenMeaning],
    differing: Sequence[int],
) -> tuple[str, ...]:
    """Return what a loss that compares by id would teach at the first wrong token of the example.

    If no token of the example is wrong, the first id that differs is named.

    Args:
        differing: ids of both tokenizers that do not mean the same.
    """
    wrong, sentences = set(differing), []
    for position, id_ in enumerate(example.student_ids):
        if id_ in wrong and student_meanings[id_].kind != "special":
            sentences.append(
                f"position {position}: the student's token {named(student_meanings, id_)} would be pushed towards the "
                f"teacher's token {named(teacher_meanings, id_)}, because both have id {id_}"
            )
            break
    for position, id_ in enumerate(example.teacher_ids):
        if id_ in wrong and teacher_meanings[id_].kind != "special":
            sentences.append(
                f"position {position}: where the teacher predicts {named(teacher_meanings, id_)}, its id {id_}, the "
                f"student would learn to predict {named(student_meanings, id_)}"
            )
            break
    if wrong and not sentences:  # the example holds no token that differs
        first = min(wrong)
        sentences.append(
            f"id {first}: the student's token {named(student_meanings, first)} would be pushed towards the teacher's "
            f"token {named(teacher_meanings, first)}"
        )
    return tuple(sentences)


def width_notes(teacher: TokenizerInfo, student: TokenizerInfo, teacher_ids: int, student_ids: int) -> tuple[str, ...]:
    """Name models whose logits have fewer rows than their tokenizer has ids.

    Args:
        teacher_ids, student_ids: the highest id plus one.
    """
    return tuple(
        f"danger: the {role}'s logits have {info.logits_width:,} rows, but its tokenizer has ids up to {ids - 1:,}: "
        f"its model can neither read nor write those from {info.logits_width:,} on"
        for role, info, ids in (("teacher", teacher, teacher_ids), ("student", student, student_ids))
        if info.logits_width is not None and info.logits_width < ids
    )


def role_notes(
    teacher_meanings: Sequence[TokenMeaning],
    student_meanings: Sequence[TokenMeaning],
    teacher: TokenizerInfo,
    student: TokenizerInfo,
    *,
    same_ids: bool,
) -> tuple[str, ...]:
    """Name BOS and EOS that differ (or that one tokenizer lacks), and special tokens that differ.

    If the ids mean different tokens anyway, only a missing role is noted.
    """
    notes: list[str] = []
    for role in ("bos", "eos"):
        a, b = teacher.roles.get(role), student.roles.get(role)
        if a != b and (same_ids or a is None or b is None):
            teachers, students = _with_id(teacher_meanings, a), _with_id(student_meanings, b)
            notes.append(f"{role.upper()} differs: teacher {teachers}, student {students}")
    if not same_ids:
        return tuple(notes)
    pairs = list(enumerate(zip(teacher_meanings, student_meanings, strict=False)))
    flagged = [i for i, (a, b) in pairs if {a.kind, b.kind} == {"special", "text"}]
    if flagged:
        notes.append(
            f"{len(flagged)} tokens are special in one tokenizer only, e.g. "
            f"{_with_id(teacher_meanings, flagged[0])}: texts that contain them are split differently"
        )
    renamed = [i for i, (a, b) in pairs if (a.kind, b.kind) == ("special", "special") and a.data != b.data]
    if renamed:
        first = renamed[0]
        notes.append(
            f"{len(renamed)} special tokens have one role but two names, e.g. {_with_id(teacher_meanings, first)} and "
            f"{_with_id(student_meanings, first)}"
        )
    return tuple(notes)


def template_notes(teacher: TokenizerInfo, student: TokenizerInfo) -> tuple[str, ...]:
    """Note that the chat templates differ."""
    a, b = teacher.chat_template_sha256, student.chat_template_sha256
    if a == b:
        return ()
    if a is None or b is None:
        return (f"only the {'student' if a is None else 'teacher'} has a chat template",)
    return ("the chat templates differ: render every chat for both models with one of the two",)


def _with_id(meanings: Sequence[TokenMeaning], id_: int | None) -> str:
    return "none" if id_ is None else f"{named(meanings, id_)} (id {id_})"

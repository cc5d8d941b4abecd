"""What the evidence means in words: warnings of a contract, and what a loss that compares by id would teach."""

from __future__ import annotations

from collections.abc import Sequence

from distillab.pairing.token_bytes import TokenMeaning
from distillab.records import SideBySide, TokenizerInfo


def named(meanings: Sequence[TokenMeaning], id_: int | None) -> str:
    """A token for a message: its text in quotes, the bytes where they are no text, or that there is none."""
    if id_ is None or id_ >= len(meanings) or meanings[id_].kind == "unused":
        return "(no token)"
    try:
        return repr(meanings[id_].data.decode("utf-8"))
    except UnicodeDecodeError:
        return repr(meanings[id_].data)


def would_train(
    example: SideBySide, ours: Sequence[TokenMeaning], theirs: Sequence[TokenMeaning], differing: Sequence[int]
) -> tuple[str, ...]:
    """What a loss by id would teach at the first wrong token of the example, seen from either side.

    Where no token of the example is wrong, the first id that differs is named.

    Args:
        ours, theirs: the teacher's and the student's meanings.
        differing: ids below both lengths that do not mean the same.
    """
    wrong, said = set(differing), []
    for position, id_ in enumerate(example.student_ids):
        if id_ in wrong and theirs[id_].kind != "special":
            said.append(
                f"position {position}: the student's token {named(theirs, id_)} would be pushed towards the "
                f"teacher's token {named(ours, id_)}, because both have id {id_}"
            )
            break
    for position, id_ in enumerate(example.teacher_ids):
        if id_ in wrong and ours[id_].kind != "special":
            said.append(
                f"position {position}: where the teacher says {named(ours, id_)}, its id {id_}, the student would "
                f"learn to say {named(theirs, id_)}"
            )
            break
    if wrong and not said:  # the example is too short or too plain to show it
        first = min(wrong)
        said.append(
            f"id {first}: the student's token {named(theirs, first)} would be pushed towards the teacher's token "
            f"{named(ours, first)}"
        )
    return tuple(said)


def width_notes(teacher: TokenizerInfo, student: TokenizerInfo, teacher_ids: int, student_ids: int) -> tuple[str, ...]:
    """Models whose logits have fewer rows than their tokenizer has ids.

    Args:
        teacher_ids, student_ids: the highest id plus one.
    """
    return tuple(
        f"danger: the {who}'s logits have {side.logits_width:,} rows, but its tokenizer has ids up to {ids - 1:,}: "
        f"its model can neither read nor write those from {side.logits_width:,} on"
        for who, side, ids in (("teacher", teacher, teacher_ids), ("student", student, student_ids))
        if side.logits_width is not None and side.logits_width < ids
    )


def role_notes(
    ours: Sequence[TokenMeaning],
    theirs: Sequence[TokenMeaning],
    teacher: TokenizerInfo,
    student: TokenizerInfo,
    *,
    same_ids: bool,
) -> tuple[str, ...]:
    """BOS and EOS that are other tokens (or there on one side only), and special tokens that are not alike.

    Where the ids mean different tokens anyway, only a role that one side lacks is worth a note.
    """
    notes: list[str] = []
    for role in ("bos", "eos"):
        a, b = teacher.roles.get(role), student.roles.get(role)
        if a != b and (same_ids or a is None or b is None):
            notes.append(f"{role.upper()} differs: teacher {_with_id(ours, a)}, student {_with_id(theirs, b)}")
    if not same_ids:
        return tuple(notes)
    pairs = list(enumerate(zip(ours, theirs, strict=False)))
    flagged = [i for i, (a, b) in pairs if {a.kind, b.kind} == {"special", "text"}]
    if flagged:
        notes.append(
            f"{len(flagged)} tokens are special on one side only, e.g. {_with_id(ours, flagged[0])}: texts that "
            "contain them are split differently"
        )
    renamed = [i for i, (a, b) in pairs if (a.kind, b.kind) == ("special", "special") and a.data != b.data]
    if renamed:
        first = renamed[0]
        notes.append(
            f"{len(renamed)} special tokens have one role but two names, e.g. {_with_id(ours, first)} and "
            f"{_with_id(theirs, first)}"
        )
    return tuple(notes)


def template_notes(teacher: TokenizerInfo, student: TokenizerInfo) -> tuple[str, ...]:
    """Chat templates that are not the same."""
    a, b = teacher.chat_template_sha256, student.chat_template_sha256
    if a == b:
        return ()
    if a is None or b is None:
        return (f"only the {'student' if a is None else 'teacher'} has a chat template",)
    return ("the chat templates differ: both sides must see a chat as one of them renders it",)


def _with_id(meanings: Sequence[TokenMeaning], id_: int | None) -> str:
    return "none" if id_ is None else f"{named(meanings, id_)} (id {id_})"

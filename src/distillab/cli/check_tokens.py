"""`distillab check --tokens`: one text in both tokenizers, span by span, and what each teacher token maps to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from distillab.terminal import plain_console

if TYPE_CHECKING:
    from numpy import int32
    from numpy.typing import NDArray
    from rich.console import Console

    from distillab.alignment.plan import SpanPlan
    from distillab.alignment.projection import VocabularyProjection
    from distillab.pairing.loading import LoadedTokenizer
    from distillab.pairing.token_bytes import TokenMeaning

_WHY = {
    "one_sided": "special tokens that the other tokenizer lacks, or tokens that they split",
    "differing": "bytes that a normaliser changed or that are unk",
    "cut": "after the end of the other sequence",
}


def show_tokens(teacher: LoadedTokenizer, student: LoadedTokenizer, text: str) -> None:
    """Print the common spans of a text, and the projection of its teacher tokens."""
    import numpy as np

    from distillab.alignment.spans import SpanAligner
    from distillab.alignment.tables import TokenTable
    from distillab.alignment.vocabulary import project_vocabulary
    from distillab.data.pieces import canonical_pieces
    from distillab.pairing.contract import fingerprint

    console = plain_console()
    student_meanings, teacher_meanings = student.meanings, teacher.meanings
    student_ids, teacher_ids = (np.array(one.tokenizer(text)["input_ids"], np.int32) for one in (student, teacher))
    aligner = SpanAligner(
        student=TokenTable.of(student_meanings), teacher=TokenTable.of(teacher_meanings), differing="leave_out"
    )
    _show_spans(
        console,
        aligner.row(student_ids, teacher_ids),
        (student_ids, student_meanings),
        (teacher_ids, teacher_meanings),
        text,
    )
    projection = project_vocabulary(
        teacher=teacher_meanings,
        student=student_meanings,
        pieces=canonical_pieces(student.tokenizer, student_meanings),
        teacher_fingerprint=fingerprint(teacher),
        student_fingerprint=fingerprint(student),
    )
    _show_mapping(console, projection, teacher_ids.tolist(), teacher_meanings, student_meanings)


def _show_spans(
    console: Console,
    plan: SpanPlan,
    student: tuple[NDArray[int32], Sequence[TokenMeaning]],
    teacher: tuple[NDArray[int32], Sequence[TokenMeaning]],
    text: str,
) -> None:
    spans = [
        [[shown(meanings[id_]) for id_ in ids[start:end]] for start, end in ranges.tolist()]
        for ranges, (ids, meanings) in ((plan.teacher, teacher), (plan.student, student))
    ]
    left, right = ([" | ".join(span) for span in one] for one in spans)
    width = max([len("teacher"), *map(len, left)])
    console.print(f"Spans of {text!r} that both share: {len(plan)}", style="bold")
    console.print(f"  {'teacher':<{width}}    student")
    for one, other in zip(left, right, strict=True):
        console.print(f"  {one:<{width}}    {other}")
    for role, left_out in (("teacher", plan.teacher_left_out), ("student", plan.student_left_out)):
        for reason, count in left_out._asdict().items():
            if count:
                console.print(f"  left out, {role}: {count} tokens, {_WHY[reason]}", style="yellow")


def _show_mapping(
    console: Console,
    projection: VocabularyProjection,
    teacher_ids: Sequence[int],
    teacher_meanings: Sequence[TokenMeaning],
    student_meanings: Sequence[TokenMeaning],
) -> None:
    rows = []
    for id_ in dict.fromkeys(teacher_ids):
        mapped = ", ".join(
            f"{to.student_id} {shown(student_meanings[to.student_id])}"
            + (f" x {to.weight:.3g}" if to.weight != 1 else "")
            for to in projection.describe(id_)
        )
        how = next((to.how for to in projection.describe(id_)), "unmapped")
        rows.append((f"{id_} {shown(teacher_meanings[id_])}", mapped or "nothing", how))
    first, second = (max(len(row[column]) for row in rows) if rows else 0 for column in (0, 1))
    console.print()
    console.print("Student tokens that get the probability of each teacher token, at aligned positions", style="bold")
    for token, mapped, how in rows:
        console.print(f"  {token:<{first}} -> {mapped:<{second}}  {how}", style="yellow" if how == "unmapped" else None)
    shares = ", ".join(f"{name} {share:.1%}" for name, share in projection.coverage_by_rows()._asdict().items())
    console.print(f"  of the teacher's vocabulary: {shares}")


def shown(meaning: TokenMeaning) -> str:
    """Return text in quotes, other bytes escaped, special tokens bare."""
    shown = meaning.data.decode("utf-8", "backslashreplace")
    return shown if meaning.kind == "special" else repr(shown).replace("\\\\x", "\\x")

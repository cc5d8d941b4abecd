"""`distillab check --tokens`: one text in both tokenizers, span by span, and what each teacher token becomes."""

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
    "one_sided": "special tokens that the other side lacks, or what they cut",
    "differing": "bytes that a normaliser changed or unk hides",
    "cut": "behind the end of the other side",
}


def show_tokens(teacher: LoadedTokenizer, student: LoadedTokenizer, text: str) -> None:
    """Print the shared spans of a text, and the projection of the teacher's tokens in it."""
    import numpy as np

    from distillab.alignment.spans import SpanAligner
    from distillab.alignment.tables import TokenTable
    from distillab.alignment.vocabulary import project_vocabulary
    from distillab.data.pieces import canonical_pieces
    from distillab.pairing.contract import fingerprint
    from distillab.pairing.token_bytes import token_meanings

    console = plain_console()
    ours, theirs = token_meanings(student.tokenizer), token_meanings(teacher.tokenizer)
    student_ids, teacher_ids = (np.array(side.tokenizer(text)["input_ids"], np.int32) for side in (student, teacher))
    aligner = SpanAligner(student=TokenTable.of(ours), teacher=TokenTable.of(theirs), differing="leave_out")
    _show_spans(console, aligner.row(student_ids, teacher_ids), (student_ids, ours), (teacher_ids, theirs), text)
    projection = project_vocabulary(
        teacher=theirs,
        student=ours,
        pieces=canonical_pieces(student.tokenizer, ours),
        teacher_fingerprint=fingerprint(teacher, theirs),
        student_fingerprint=fingerprint(student, ours),
    )
    _show_mapping(console, projection, teacher_ids.tolist(), theirs, ours)


def _show_spans(
    console: Console,
    plan: SpanPlan,
    student: tuple[NDArray[int32], Sequence[TokenMeaning]],
    teacher: tuple[NDArray[int32], Sequence[TokenMeaning]],
    text: str,
) -> None:
    sides = [
        [[_shown(meanings[id_]) for id_ in ids[start:end]] for start, end in ranges.tolist()]
        for ranges, (ids, meanings) in ((plan.teacher, teacher), (plan.student, student))
    ]
    left, right = ([" | ".join(span) for span in side] for side in sides)
    width = max([len("teacher"), *map(len, left)])
    console.print(f"Spans of {text!r} that both share: {len(plan)}", style="bold")
    console.print(f"  {'teacher':<{width}}    student")
    for one, other in zip(left, right, strict=True):
        console.print(f"  {one:<{width}}    {other}")
    for who, left_out in (("teacher", plan.teacher_left_out), ("student", plan.student_left_out)):
        for reason, count in left_out._asdict().items():
            if count:
                console.print(f"  left out, {who}: {count} tokens, {_WHY[reason]}", style="yellow")


def _show_mapping(
    console: Console,
    projection: VocabularyProjection,
    teacher_ids: Sequence[int],
    theirs: Sequence[TokenMeaning],
    ours: Sequence[TokenMeaning],
) -> None:
    rows = []
    for id_ in dict.fromkeys(teacher_ids):
        mapped = ", ".join(
            f"{to.student_id} {_shown(ours[to.student_id])}" + (f" x {to.weight:.3g}" if to.weight != 1 else "")
            for to in projection.describe(id_)
        )
        how = next((to.how for to in projection.describe(id_)), "unmapped")
        rows.append((f"{id_} {_shown(theirs[id_])}", mapped or "nothing", how))
    first, second = (max(len(row[column]) for row in rows) if rows else 0 for column in (0, 1))
    console.print()
    console.print("What the teacher's probability of a token goes to, where both stand at one place", style="bold")
    for token, mapped, how in rows:
        console.print(f"  {token:<{first}} -> {mapped:<{second}}  {how}", style="yellow" if how == "unmapped" else None)
    shares = ", ".join(f"{name} {share:.1%}" for name, share in projection.coverage_by_rows()._asdict().items())
    console.print(f"  of the teacher's vocabulary: {shares}")


def _shown(meaning: TokenMeaning) -> str:
    """Text in quotes, bytes that are no text as they are, special tokens bare."""
    shown = meaning.data.decode("utf-8", "backslashreplace")
    return shown if meaning.kind == "special" else repr(shown).replace("\\\\x", "\\x")

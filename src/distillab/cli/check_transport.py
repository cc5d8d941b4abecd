"""`distillab check --transport`: which tokens the student writes where the teacher would write one of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from distillab.terminal import plain_console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distillab.alignment.transport import TransportCounts
    from distillab.pairing.loading import LoadedTokenizer

_MOST = 8


def show_transport(teacher: LoadedTokenizer, student: LoadedTokenizer, token: str, *, data: Path | None) -> None:
    """Print, for each number of bytes that are written of a teacher's token, how the student goes on.

    Args:
        token: its text.
        data: rows to count on; None: the sample that ships with distillab.
    Raises:
        ConfigError: the teacher has no such token, or the text is empty.
    """
    from distillab.alignment.transport import PRIOR
    from distillab.cli.check import texts_in
    from distillab.cli.check_tokens import shown
    from distillab.data.pieces import canonical_pieces
    from distillab.errors import ConfigError
    from distillab.pairing.sample import SAMPLE, SAMPLE_SOURCE

    written = token.encode()
    if not written:
        raise ConfigError("The text of a token is missing.", where="--transport", fix='write one, as in " there"')
    ids = [id_ for id_, meaning in enumerate(teacher.meanings) if meaning.kind == "text" and meaning.data == written]
    if not ids:
        pieces = canonical_pieces(teacher.tokenizer, teacher.meanings)([written])[0]
        raise ConfigError(
            "The teacher has no such token.",
            where="--transport",
            facts=[f"it writes {token!r} as {' | '.join(shown(teacher.meanings[id_]) for id_ in pieces)}"],
            fix="one of these, with the space in front if there is one",
        )
    texts, source = texts_in(data) if data is not None else (SAMPLE, SAMPLE_SOURCE)
    counts = _counted(teacher, student, texts)
    pieces_of = canonical_pieces(student.tokenizer, student.meanings)
    console = plain_console()
    console.print(f"The student's next token where the teacher writes {token!r}, counted on {source}", style="bold")
    for offset in range(len(written)):
        found = pieces_of([written[offset:]])[0]
        row = counts.row(ids[0], offset, fallback=found[0] if found else None, prior=PRIOR)
        if not row or (offset and not any(one.times for one in row)):
            continue
        place = "at its start" if not offset else f"after {written[:offset].decode('utf-8', 'backslashreplace')!r}"
        said = ", ".join(
            f"{shown(student.meanings[one.student_id])} {one.share:.1%} ({one.times:,})" for one in row[:_MOST]
        )
        never = "" if any(one.times for one in row) else "; it never occurred: this is how the student writes it alone"
        console.print(f"  {place}: {said}{', …' if len(row) > _MOST else ''}{never}")


def _counted(teacher: LoadedTokenizer, student: LoadedTokenizer, texts: Sequence[str]) -> TransportCounts:
    import numpy as np

    from distillab.alignment.plan import span_numbers
    from distillab.alignment.spans import SpanAligner
    from distillab.alignment.tables import TokenTable
    from distillab.alignment.transport import TransportCounter
    from distillab.pairing.contract import fingerprint

    tables = [TokenTable.of(side.meanings) for side in (student, teacher)]
    aligner = SpanAligner(student=tables[0], teacher=tables[1], differing="leave_out")
    counter = TransportCounter(
        *tables,
        teacher_width=len(teacher.meanings),
        student_width=len(student.meanings),
        teacher_fingerprint=fingerprint(teacher),
        student_fingerprint=fingerprint(student),
    )
    ours, theirs = (
        [np.array(ids, np.int32) for ids in side.tokenizer(list(texts))["input_ids"]] for side in (student, teacher)
    )
    for plan, own, other in zip(aligner.rows(ours, theirs), ours, theirs, strict=True):
        counter.add(
            (own.astype(np.int64), span_numbers(plan.student, len(own))),
            (other.astype(np.int64), span_numbers(plan.teacher, len(other))),
        )
    return counter.counts()

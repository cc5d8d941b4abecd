"""`audit_pair`: may this student learn from this teacher, and does the teacher say what it is taken to say?"""

from __future__ import annotations

from pathlib import Path

from distillab.doctor.pair.alignment import examine_alignment
from distillab.doctor.pair.begin import examine_begin
from distillab.doctor.pair.contract import examine_contract
from distillab.doctor.pair.loading import load_pair
from distillab.doctor.pair.mode import examine_mode
from distillab.doctor.pair.padding import examine_padding
from distillab.doctor.pair.precision import examine_precision
from distillab.doctor.pair.quality import examine_quality
from distillab.doctor.pair.subject import PairSubject
from distillab.doctor.pair.template import examine_template
from distillab.pairing.admission import judgement
from distillab.records import Examined, Investigation

__all__ = ["PairSubject", "audit_pair", "examine_pair"]

_PROBES = (
    examine_contract,
    examine_alignment,
    examine_mode,
    examine_quality,
    examine_begin,
    examine_template,
    examine_padding,
    examine_precision,
)


def examine_pair(subject: PairSubject) -> tuple[Examined, ...]:
    """All probes of a pair, one record each. Neither model is changed; a missing one is named in `not_done`.

    Raises:
        DataError: an example cannot be rendered by the run's template.
    """
    return tuple(probe(subject) for probe in _PROBES)


def audit_pair(
    teacher: str | Path,
    student: str | Path,
    data: str | Path | None = None,
    *,
    rows: int = 128,
    template: str = "auto",
    max_tokens: int = 256,
    dtype: str = "auto",
    device: str = "auto",
    compares_by_index: bool = True,
) -> Investigation:
    """Examine a teacher and a student that were saved, before anything is trained.

    Args:
        teacher, student: folders or hub ids. One with only a tokenizer is judged by that alone.
        data: a file of rows, as for training; None: the tokenizers alone are judged.
        rows: how many of its first rows are read; some are asked about, the others count tokens.
        template: how rows are written: auto, plain, chat, alpaca, turns, or a text with {prompt}.
        max_tokens: rows are cut there, and at the shorter of both contexts.
        dtype: of both models: auto (as stored), float32, bfloat16, float16.
        device: auto, cpu, cuda.
        compares_by_index: the loss will compare tokens by their ids; unrelated ids are an error then, else a note.
    Raises:
        ConfigError, TeacherError: a folder is not there, or cannot be loaded.
        DataError: tokenizer or rows cannot be read.
        TokenizerMismatch: a tokenizer does not give the ids of its own tokenizer.json.
    """
    subject = load_pair(
        str(teacher),
        str(student),
        None if data is None else str(data),
        rows=rows,
        template=template,
        max_tokens=max_tokens,
        dtype=dtype,
        device=device,
        compares_by_index=compares_by_index,
    )
    return Investigation(
        subject=f"teacher {teacher}, student {student}",
        examined=examine_pair(subject),
        pairing=judgement(subject.contract),
    )

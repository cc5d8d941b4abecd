"""Check: does the teacher know this data better than the student, and better than the frequencies of tokens?"""

from __future__ import annotations

import math
from itertools import islice

import torch
from transformers import PreTrainedModel

from distillab.data.encoding import Dropped
from distillab.doctor.checks import Checked, Scope, Skipped, check, from_page
from distillab.doctor.pair.subject import PairSubject, ReadRows, affordable_tokens, read_rows, scores_of
from distillab.evaluation.likelihood import RowScores
from distillab.evaluation.references import reference_lines, standard_error
from distillab.records import Finding, ReferenceLines

_MIN_ROWS = 8
_ERRORS = 3.0
# rows that only count tokens
_MOST_COUNTED = 2_000


@check("teacher's knowledge")
def check_quality(subject: PairSubject) -> Checked:
    """Compare the teacher's nats on the answers with those of the unigram model, log V and the student."""
    what = "the teacher's nats on the answers"
    yield Scope(what)
    teacher = subject.running_teacher
    # the other rows count the tokens, so that the unigram model has not seen the rows on which it is judged
    half = subject.examples[: max(1, len(subject.examples) // 2)]
    student = None if subject.student_is_random else subject.student_model
    read = read_rows(subject.input_reader, half, teacher, most_tokens=affordable_tokens(teacher, student))
    if len(read.rows) < _MIN_ROWS:
        raise Skipped(f"{len(read.rows)} rows; {_MIN_ROWS} are needed")
    scores = scores_of(teacher, subject.input_reader, read.rows)
    own = float(scores.nats.sum() / scores.tokens.sum())
    lines = _lines(subject, read)
    if not math.isfinite(own):
        raise Skipped("the teacher's logits are not finite: see the check of its number format")
    if lines is not None and lines.unigram_nats is not None:
        above = scores.nats - lines.unigram_nats * scores.tokens
        margin = _ERRORS * standard_error(above.tolist(), int(scores.tokens.sum()))
        if own > lines.unigram_nats + margin:
            yield from_page(
                "teacher-below-unigram",
                f"teacher {own:.2f} nats per token, unigram model {lines.unigram_nats:.2f}, log V "
                f"{lines.uniform_nats:.2f}",
                f"over {int(scores.tokens.sum()):,} tokens of {len(scores.keys)} rows",
                case="below uniform" if own > lines.uniform_nats else "below unigram",
            )
    shown = f"{what}: {own:.2f} nats per token over {int(scores.tokens.sum()):,} tokens of {len(read.rows)} rows"
    yield Scope(shown)
    if student is not None:
        finding, figures = _against_student(subject, student, read, scores)
        yield Scope(shown + figures)
        yield finding


def _lines(subject: PairSubject, read: ReadRows) -> ReferenceLines | None:
    judged = {example.key for example in read.examples}
    rest = list(islice((one for one in subject.examples if one.key not in judged), _MOST_COUNTED))
    encoded = subject.input_reader.encoder.encode_some(rest)
    counted = [row for row in encoded if not isinstance(row, Dropped)]
    if not counted:
        return None
    return reference_lines(counted, read.rows, vocabulary=len(subject.input_reader.tokenizer))


def _against_student(
    subject: PairSubject, student: PreTrainedModel, read: ReadRows, teacher: RowScores
) -> tuple[Finding | None, str]:
    """Compare row by row in bits, across tokenizations; rows that do not fit whole into both models are left out."""
    rows, kept = [], []
    for number, example in enumerate(read.examples):
        row = subject.student.encoder.encode(example)
        if isinstance(row, Dropped):
            continue
        cut = row.truncated or read.rows[number].truncated
        if not cut or (subject.same_ids and len(row) == len(read.rows[number])):
            rows.append(row)
            kept.append(number)
    if len(rows) < _MIN_ROWS:
        return None, f"; the student was not compared: {len(rows)} rows fit whole into both"
    known = read_rows(subject.student, [read.examples[number] for number in kept], student, most_tokens=1 << 30)
    if known.unreadable:
        return None, f"; the student was not compared: it has no embedding for ids of {known.unreadable} rows"
    scores = scores_of(student, subject.student, rows)
    # of the text alone: two tokenizers end an answer by different tokens
    teacher_nats = (teacher.nats - teacher.eos_nats)[torch.tensor(kept)]
    student_nats = scores.nats - scores.eos_nats
    worse = teacher_nats - student_nats
    examples = [read.examples[number] for number in kept]
    if any(row.truncated for row in rows):
        unit, sizes = "nats per token", [float((scores.tokens - scores.eos_tokens).sum())] * 2
    else:
        unit, readers = "bits per byte", (subject.input_reader, subject.student)
        sizes = [math.log(2) * sum(map(reader.encoder.scored_bytes, examples)) for reader in readers]
    teacher_unit, student_unit = float(teacher_nats.sum()) / sizes[0], float(student_nats.sum()) / sizes[1]
    figures = f"; teacher {teacher_unit:.3f}, student {student_unit:.3f} {unit} over {len(rows)} rows"
    if float(worse.mean()) <= _ERRORS * float(worse.std()) / math.sqrt(len(worse)):
        return None, figures
    evidence = f"{figures.removeprefix('; ')}; worse in {int((worse > 0).sum())}"
    return from_page("teacher-below-student", evidence), figures

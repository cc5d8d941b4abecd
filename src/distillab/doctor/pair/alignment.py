"""Check: is the teacher's signal about the student's tokens? Measured, whatever the tokenizers are called."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from distillab.data.examples import Example
from distillab.data.reading import Reader
from distillab.data.view import marked
from distillab.doctor.pair.measures import MAX_ELEMENTS, SignalRow, measure_signal, signal_row, tokens_test
from distillab.doctor.pair.queries import ReadRows, affordable_tokens, evaluating, logits_of, read_rows, scored
from distillab.doctor.pair.subject import PairSubject
from distillab.doctor.pair.verdict import CHECK_ID, judged
from distillab.errors import DataError
from distillab.pairing.token_bytes import token_meanings
from distillab.records import CheckResult

_MOST_TOKENS = 2_048
_SHOWN_CHARACTERS = 160
_SEED = 0


def check_alignment(subject: PairSubject) -> CheckResult:
    """Run the teacher on rows as a loss by id would, and test the signal by permutation.

    Where ids are unrelated and nothing compares by them, the teacher reads its own tokens: are its weights
    those of its tokenizer?
    """
    teacher = subject.teacher_model
    lacking = subject.lacking_teacher
    if teacher is None or lacking is not None:
        return CheckResult(check=CHECK_ID, scope="the teacher's logits at the student's tokens", skipped=lacking)
    by_index = subject.same_ids or subject.compares_by_index
    reader = subject.student if by_index else subject.teacher
    # an untrained student's logits show nothing, and at other tokens it has none
    student = subject.student_model if by_index and not subject.student_is_random else None
    what = "the teacher's logits at the student's tokens" if by_index else "the teacher's logits at its own tokens"
    try:
        rows, read = _signals(reader, subject.examples, teacher, student)
        own = None
        if by_index and not subject.same_ids and rows:
            own = tokens_test(_signals(subject.teacher, read.examples, teacher, None)[0], seed=_SEED)
    except DataError as error:
        return CheckResult(check=CHECK_ID, scope=what, skipped=f"{error.rule} {'; '.join(error.facts)}")
    if not rows:
        why = f"none of {read.unreadable} rows can be read: they contain ids for which a model has no embedding"
        return CheckResult(check=CHECK_ID, scope=what, skipped=why if read.unreadable else "no row has a scored token")
    measures = measure_signal(rows, seed=_SEED)
    if read.unreadable:
        what += f"; {read.unreadable} rows left out that contain ids for which a model has no embedding"
    scope = f"{what}: {measures.positions:,} scored tokens of {len(rows)} rows"
    result = judged(measures, scope=scope, own=own)
    if not result.findings:
        return result
    shown = _example(reader, read)
    return result.model_copy(
        update={"findings": tuple(finding.model_copy(update={"example": shown}) for finding in result.findings)}
    )


def _signals(
    reader: Reader, examples: Sequence[Example], teacher: PreTrainedModel, student: PreTrainedModel | None
) -> tuple[list[SignalRow], ReadRows]:
    most = min(_MOST_TOKENS, affordable_tokens(teacher, student))
    read = read_rows(reader, examples, teacher, student, most_tokens=most)
    found: list[SignalRow] = []
    elements = MAX_ELEMENTS
    for row in read.rows:
        if found and elements < found[-1].teacher_logp.shape[1]:
            break
        with evaluating(teacher):
            teacher_logits = logits_of(teacher, reader, row)
        width = teacher_logits.shape[1]
        places = scored(row)
        student_logits = None
        if student is not None:
            with evaluating(student):
                student_logits = logits_of(student, reader, row)
            width = min(width, student_logits.shape[1])
        ids = row.input_ids[places.numpy()]
        places = places[ids < width][: max(1, elements // width)]
        elements -= len(places) * width
        if not len(places):
            continue
        found.append(
            signal_row(
                places,
                places.new_tensor(row.input_ids[places.numpy()].tolist()),
                teacher_logits[places - 1],
                None if student_logits is None else student_logits[places - 1],
            )
        )
    return found, read


def _example(reader: Reader, read: ReadRows) -> tuple[str, ...]:
    shown = marked(read.rows[0], token_meanings(reader.tokenizer))
    return (shown if len(shown) <= _SHOWN_CHARACTERS else shown[:_SHOWN_CHARACTERS] + " …",)

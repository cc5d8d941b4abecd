"""How well the teacher predicts the rows: against the student and frequencies, in other templates, with a BOS token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
import torch
from transformers import PreTrainedModel

from distillab.data.encoding import Dropped, EncodedRow, Encoder
from distillab.data.examples import Example
from distillab.data.reading import Reader
from distillab.data.templates import resolve_template
from distillab.doctor.checks import Checked, Scope, Skipped, check, from_page
from distillab.doctor.pair.subject import PairSubject, ReadRows, affordable_tokens, read_rows, scores_of
from distillab.errors import DataError
from distillab.evaluation.likelihood import RowScores
from distillab.evaluation.references import reference_lines, standard_error
from distillab.records import Finding, ReferenceLines

_FORMS = {"pair": ("plain", "alpaca", "turns"), "messages": ("turns",)}
_MIN_ROWS = 8
_MOST_TOKENS = 4_096
CLEARLY_WORSE = 0.1
ERRORS = 3.0

# by the row's key: nats over the answer, without the token that closes it
_Nats = dict[str, float]
# rows that only count tokens
_MOST_COUNTED = 2_000


@check("template")
def check_template(subject: PairSubject) -> Checked:
    """Compare the teacher's bits per byte of the same answers behind each form of the prompt."""
    yield Scope("the teacher's bits per byte with each template")
    teacher = subject.running_teacher
    kind = subject.examples[0].kind
    if kind == "text":
        raise Skipped("plain text has no template")
    readers, refused = _other_forms(subject, kind)
    # one form is a pass over the rows, and all together may take the time of one check
    most = min(_MOST_TOKENS, affordable_tokens(teacher) // (1 + len(readers)) + 1)
    examples = read_rows(subject.input_reader, subject.examples, teacher, most_tokens=most).examples
    used = subject.input_reader.encoder.template.name
    forms = {used: _measured(teacher, subject.input_reader, examples)}
    for name, reader in readers.items():
        try:
            forms[name] = _measured(teacher, reader, examples)
        except DataError as error:
            refused.append(f"{name} ({error.rule})")
    kept = [example for example in examples if all(example.key in nats for nats in forms.values())]
    if len(kept) < _MIN_ROWS:
        raise Skipped(f"{len(kept)} rows fit whole into every template; {_MIN_ROWS} are needed")
    columns = {name: np.asarray([nats[example.key] for example in kept]) for name, nats in forms.items()}
    size = math.log(2) * sum(len(answer.encode()) for example in kept for answer in example.answers)
    figures = ", ".join(f"{name} {sum(column) / size:.3f}" for name, column in columns.items())
    not_tried = f"; not tried: {', '.join(refused)}" if refused else ""
    yield Scope(f"the teacher's bits per byte on {len(kept)} rows: {figures} (the run's is {used}){not_tried}")
    better = [name for name, column in columns.items() if name != used and clearly_worse(columns[used], column)]
    if better:
        best = min(better, key=lambda name: float(sum(columns[name])))
        shown = readers[best].encoder.template.render_prompt(examples[0])
        yield from_page(
            "teacher-template",
            f"bits per byte of the same answers: {figures}",
            f"the run's template: {used}",
            case="own template" if best.startswith("the ") else "another template",
            example=(f"{best}: {shown[-160:]!r}",),
            words={"name": best},
        )


def _other_forms(subject: PairSubject, kind: str) -> tuple[dict[str, Reader], list[str]]:
    """Return readers by the template's name, with the teacher's tokenizer; and the templates that cannot be used."""
    teacher, used = subject.teacher, subject.input_reader.encoder
    names = list(_FORMS[kind])
    if teacher.tokenizer.chat_template is not None:
        names.append("chat")
    found, refused = {}, []
    for name in names:
        try:
            template = resolve_template(name, teacher.tokenizer, subject.examples[0].kind)
            encoder = Encoder(teacher.tokenizer, template, used.max_tokens)
        except DataError as error:
            refused.append(f"{name} ({error.rule})")
            continue
        if template.sha256 != used.template.sha256:
            found[name if name != used.template.name else f"the teacher's {name}"] = replace(teacher, encoder=encoder)
    return found, refused


def _measured(model: PreTrainedModel, reader: Reader, examples: Sequence[Example]) -> _Nats:
    encoded = map(reader.encoder.encode, examples)
    rows = [row for row in encoded if isinstance(row, EncodedRow) and not row.truncated]
    if not rows:
        return {}
    scores = scores_of(model, reader, rows)
    # templates close an answer by different tokens, of which a model knows its own only
    return dict(zip(scores.keys, (scores.nats - scores.eos_nats).tolist(), strict=True))


@check("BOS token")
def check_begin(subject: PairSubject) -> Checked:
    """Compare the teacher's nats on the same tokens with its BOS token before the row and without."""
    yield Scope("the teacher's nats with and without its BOS token")
    teacher, reader = subject.running_teacher, subject.input_reader
    bos = subject.teacher.tokenizer.bos_token_id
    if bos is None:
        raise Skipped("the teacher's tokenizer has no BOS token")
    most = min(_MOST_TOKENS, affordable_tokens(teacher))
    read = read_rows(reader, subject.examples, teacher, most_tokens=most)
    used = [bool(row.input_ids[0] == bos) for row in read.rows]
    pairs = [(begun, bare) for begun, bare in (_both(row, bos) for row in read.rows) if bare.answer_mask.any()]
    if len(pairs) < _MIN_ROWS:
        raise Skipped(f"{len(pairs)} rows; {_MIN_ROWS} are needed")
    if len(set(used)) > 1:
        raise Skipped("some rows begin with the token, and some do not")
    begun, bare = (scores_of(teacher, reader, rows).nats.numpy() for rows in zip(*pairs, strict=True))
    tokens = sum(int(row.answer_mask.sum()) for _, row in pairs)
    with_it, without = float(begun.sum()) / tokens, float(bare.sum()) / tokens
    figures = f"{with_it:.3f} nats per token with its BOS token, {without:.3f} without; {tokens:,} tokens"
    mine, other = (begun, bare) if used[0] else (bare, begun)
    yield Scope(f"the teacher: {figures}, {len(pairs)} rows, which {'have' if used[0] else 'do not have'} it")
    if clearly_worse(mine, other):
        yield from_page("teacher-begin-token", figures, case="with" if used[0] else "without")


def clearly_worse(mine: np.ndarray, other: np.ndarray) -> bool:
    """Return whether the nats of the rows are clearly higher than in another form: by a tenth, and not by chance.

    Args:
        mine, other: one entry a row, in the same order.
    """
    worse = mine - other
    chance = ERRORS * float(worse.std(ddof=1)) / math.sqrt(len(worse))
    return float(worse.mean()) > chance and float(mine.sum()) > (1 + CLEARLY_WORSE) * float(other.sum())


def _both(row: EncodedRow, bos: int) -> tuple[EncodedRow, EncodedRow]:
    """Return the row with and without a BOS token; the same tokens are scored, and never the first one."""
    begins = bool(row.input_ids[0] == bos)
    ids = row.input_ids[1:] if begins else row.input_ids
    mask = (row.answer_mask[1:] if begins else row.answer_mask).copy()
    # without a BOS token nothing precedes the first one
    mask[:1] = False
    begun = np.concatenate([np.asarray([bos], dtype=np.int32), ids])
    begun_mask = np.concatenate([np.zeros(1, dtype=np.bool_), mask])
    return replace(row, input_ids=begun, answer_mask=begun_mask), replace(row, input_ids=ids, answer_mask=mask)


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
        margin = ERRORS * standard_error(above.tolist(), int(scores.tokens.sum()))
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
    if float(worse.mean()) <= ERRORS * float(worse.std()) / math.sqrt(len(worse)):
        return None, figures
    evidence = f"{figures.removeprefix('; ')}; worse in {int((worse > 0).sum())}"
    return from_page("teacher-below-student", evidence), figures

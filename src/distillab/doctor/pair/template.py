"""Check what each form of the prompt costs the teacher: its template, and the BOS token before the row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from transformers import PreTrainedModel

from distillab.data.encoding import EncodedRow, Encoder
from distillab.data.examples import Example
from distillab.data.reading import Reader
from distillab.data.templates import resolve_template
from distillab.doctor.checks import Checked, Scope, Skipped, check, from_page
from distillab.doctor.pair.subject import PairSubject, affordable_tokens, evaluating, read_rows
from distillab.errors import DataError
from distillab.evaluation.likelihood import score_rows
from distillab.records import Finding

_FORMS = {"pair": ("plain", "alpaca", "turns"), "messages": ("turns",)}
_BATCH = 8
_MIN_ROWS = 8
_MOST_TOKENS = 4_096
CLEARLY_WORSE = 0.1
ERRORS = 3.0


@dataclass(frozen=True, eq=False)
class _Form:
    """One way of writing a row, and how the teacher did on it.

    Attributes:
        nats: by the row's key: nats over the answer, without the token that closes it.
    """

    name: str
    nats: dict[str, float]


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
    used = _measured(teacher, subject.input_reader, examples, subject.input_reader.encoder.template.name)
    forms = []
    for name, reader in readers.items():
        try:
            forms.append(_measured(teacher, reader, examples, name))
        except DataError as error:
            refused.append(f"{name} ({error.rule})")
    keys = [example.key for example in examples if all(example.key in form.nats for form in (used, *forms))]
    if len(keys) < _MIN_ROWS:
        raise Skipped(f"{len(keys)} rows fit whole into every template; {_MIN_ROWS} are needed")
    kept = set(keys)
    size = math.log(2) * sum(len(a.encode()) for e in examples if e.key in kept for a in e.answers)
    figures = [f"{form.name} {sum(_column(form, keys)) / size:.3f}" for form in (used, *forms)]
    scope = f"the teacher's bits per byte on {len(keys)} rows: {', '.join(figures)} (the run's is {used.name})"
    if refused:
        scope += f"; not tried: {', '.join(refused)}"
    better = [form for form in forms if clearly_worse(_column(used, keys), _column(form, keys))]
    yield Scope(scope)
    if better:
        best = min(better, key=lambda form: float(sum(_column(form, keys))))
        yield _worse(used, best, figures, examples, readers)


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


def _measured(model: PreTrainedModel, reader: Reader, examples: Sequence[Example], name: str) -> _Form:
    encoded = map(reader.encoder.encode, examples)
    rows = [row for row in encoded if isinstance(row, EncodedRow) and not row.truncated]
    if not rows:
        return _Form(name, {})
    with evaluating(model):
        scores = score_rows(
            model, rows, collator=reader.collator(), batch_size=_BATCH, stop_ids=reader.encoder.stop_ids
        )
    # templates close an answer by different tokens, of which a model knows its own only
    return _Form(name, dict(zip(scores.keys, (scores.nats - scores.eos_nats).tolist(), strict=True)))


def _column(form: _Form, keys: Sequence[str]) -> np.ndarray:
    return np.asarray([form.nats[key] for key in keys])


def _worse(
    used: _Form, best: _Form, figures: Sequence[str], examples: Sequence[Example], readers: dict[str, Reader]
) -> Finding:
    shown = readers[best.name].encoder.template.render_prompt(examples[0])
    return from_page(
        "teacher-template",
        f"bits per byte of the same answers: {', '.join(figures)}",
        f"the run's template: {used.name}",
        case="own template" if best.name.startswith("the ") else "another template",
        example=(f"{best.name}: {shown[-160:]!r}",),
        words={"name": best.name},
    )


@dataclass(frozen=True)
class _Both:
    """One text with and without a BOS token; the same tokens are scored, and never the first one."""

    begun: EncodedRow
    bare: EncodedRow


@check("BOS token")
def check_begin(subject: PairSubject) -> Checked:
    """Compare the teacher's nats on the same tokens with its BOS token before the row and without."""
    yield Scope("the teacher's nats with and without its BOS token")
    teacher = subject.running_teacher
    bos = subject.teacher.tokenizer.bos_token_id
    if bos is None:
        raise Skipped("the teacher's tokenizer has no BOS token")
    most = min(_MOST_TOKENS, affordable_tokens(teacher))
    read = read_rows(subject.input_reader, subject.examples, teacher, most_tokens=most)
    used = [bool(row.input_ids[0] == bos) for row in read.rows]
    pairs = [_both(row, bos) for row in read.rows]
    pairs = [pair for pair in pairs if pair.bare.answer_mask.any()]
    if len(pairs) < _MIN_ROWS:
        raise Skipped(f"{len(pairs)} rows; {_MIN_ROWS} are needed")
    if len(set(used)) > 1:
        raise Skipped("some rows begin with the token, and some do not")
    begun = _nats(teacher, subject, [pair.begun for pair in pairs])
    bare = _nats(teacher, subject, [pair.bare for pair in pairs])
    tokens = sum(int(pair.bare.answer_mask.sum()) for pair in pairs)
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


def _both(row: EncodedRow, bos: int) -> _Both:
    begins = bool(row.input_ids[0] == bos)
    ids = row.input_ids[1:] if begins else row.input_ids
    mask = (row.answer_mask[1:] if begins else row.answer_mask).copy()
    # without a BOS token nothing precedes the first one
    mask[:1] = False
    begun = np.concatenate([np.asarray([bos], dtype=np.int32), ids])
    return _Both(
        begun=replace(row, input_ids=begun, answer_mask=np.concatenate([np.zeros(1, dtype=np.bool_), mask])),
        bare=replace(row, input_ids=ids, answer_mask=mask),
    )


def _nats(model: PreTrainedModel, subject: PairSubject, rows: list[EncodedRow]) -> np.ndarray:
    with evaluating(model):
        scores = score_rows(
            model,
            rows,
            collator=subject.input_reader.collator(),
            batch_size=_BATCH,
            stop_ids=subject.input_reader.encoder.stop_ids,
        )
    return scores.nats.numpy()

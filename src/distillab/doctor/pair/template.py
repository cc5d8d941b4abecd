"""Check: what does each form of the prompt cost the teacher?"""

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
from distillab.doctor.checks import Checked, Scope, Skipped, check
from distillab.doctor.page import from_page
from distillab.doctor.pair.bos import clearly_worse
from distillab.doctor.pair.queries import affordable_tokens, evaluating, read_rows
from distillab.doctor.pair.subject import PairSubject
from distillab.errors import DataError
from distillab.evaluation.likelihood import score_rows
from distillab.records import Finding

_FORMS = {"pair": ("plain", "alpaca", "turns"), "messages": ("turns",)}
_BATCH = 8
_MIN_ROWS = 8
_MOST_TOKENS = 4_096


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

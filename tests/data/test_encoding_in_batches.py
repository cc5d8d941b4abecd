"""Rows encoded in batches are those encoded one by one; a template that is not rendered anew writes the same."""

from __future__ import annotations

import datetime
import itertools

import numpy as np
import pytest

from distillab.data.chat_template import ChatTemplate
from distillab.data.encoded_rows import EncodedRow, EncodedRows
from distillab.data.encoding import Dropped, Encoder
from distillab.data.examples import Message, conversation_example, pair_example, text_example
from distillab.data.templates import resolve_template
from distillab.errors import DataError

TEXTS = [
    "</s> is <s>",
    "日本 🙂 naïve e\u0301",
    " lead",
    "trail ",
    "  two  spaces\n\n",
    "",
    "\u0301joins",
    "x</think>\n\ny",
]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TRIMMED = (
    "{{ bos_token }}{% for m in messages %}{% set c = '<|' ~ m.role ~ '|>\n' ~ m.content | trim ~ eos_token %}{{ c }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
THINKING = (
    "{% for m in messages %}{% set c = m.content %}{% if '</think>' in c %}{% set c = c.split('</think>')[-1] %}"
    "{% endif %}{{ '<|' + m.role + '|>' + c + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
PAIRS = [
    pair_example(f"k{n}é", "f", instruction=asked, context=context, answer=answer)
    for n, (asked, answer, context) in enumerate(itertools.product(TEXTS, TEXTS, ["", "more"]))
]
PLAIN = [
    text_example(f"t{n}", "f", text=one + other, prompt_share=0.5)
    for n, (one, other) in enumerate(itertools.product(TEXTS, TEXTS))
    if (one + other).strip()
]
TALKS = [
    conversation_example(
        f"c{n}",
        "f",
        (
            Message("system", one),
            Message("user", other),
            Message("assistant", other, supervised=n % 2 == 0),
            Message("user", one),
            Message("assistant", one + other),
        ),
    )
    for n, (one, other) in enumerate(itertools.product(TEXTS, TEXTS))
]
KINDS = {"pair": PAIRS, "text": PLAIN, "messages": TALKS}
FORMS = [
    ("plain", "pair"),
    ("alpaca", "pair"),
    ("<s>{prompt} </s>\nx", "pair"),
    ("plain", "text"),
    ("turns", "messages"),
]
FORMS += [(template, kind) for template in (CHATML, TRIMMED, THINKING) for kind in ("pair", "messages")]


def facts(row: EncodedRow) -> tuple[object, ...]:
    assert (row.input_ids.dtype, row.answer_mask.dtype) == (np.int32, np.bool_)
    numbers = (row.prompt_length, row.truncated, row.special_in_text, row.removed, row.added, row.lost)
    return row.key, row.input_ids.tolist(), row.answer_mask.tolist(), numbers


@pytest.mark.parametrize(("template", "kind"), FORMS)
@pytest.mark.parametrize(
    ("name", "most"), [("tinyllama-1.1b", 12), ("tinyllama-1.1b", 512), ("gpt2", 512), ("tok105", 12)]
)
def test_a_batch_is_its_rows_one_by_one(real_tokenizer, monkeypatch, name, template, kind, most):
    tokenizer = real_tokenizer(name)
    if "add_generation_prompt" in template:
        monkeypatch.setattr(tokenizer, "chat_template", template)
        template = "chat"
    form = resolve_template(template, tokenizer, kind, requires_generation_prompt=False)
    encoder, examples = Encoder(tokenizer, form, most), KINDS[kind][::3]
    alone = [encoder.encode(example) for example in examples]
    kept = [place for place, row in enumerate(alone) if isinstance(row, EncodedRow)]
    if not kept:
        with pytest.raises(DataError, match="No supervised token"):
            encoder.encode_all(examples, source="s")
        return
    split = encoder.encode_all(examples, source="s")
    assert [facts(row) for row in split.rows] == [facts(alone[place]) for place in kept]
    assert [example.key for example in split.examples] == [examples[place].key for place in kept]
    reasons = [row.reason for row in alone if isinstance(row, Dropped)]
    assert split.counts.dropped_empty_answer == reasons.count("empty_answer")
    assert split.counts.dropped_no_room == reasons.count("no_room")
    rows = [alone[place] for place in kept]
    assert split.counts.tokens == sum(map(len, rows))
    assert split.counts.supervised_tokens == sum(int(row.answer_mask.sum()) for row in rows)
    assert split.counts.truncated == sum(row.truncated for row in rows)
    assert split.counts.special_in_text == sum(row.special_in_text for row in rows)
    assert split.counts.characters_lost == sum(row.lost for row in rows)


def test_rows_of_several_batches_keep_their_order(real_tokenizer, monkeypatch):
    tokenizer = real_tokenizer("gpt2")
    encoder = Encoder(tokenizer, resolve_template("plain", tokenizer, "pair"), 40)
    whole = encoder.encode_all(PAIRS, source="s")
    monkeypatch.setattr("distillab.data.encoding._BATCH", 7)
    batches = encoder.encode_all(PAIRS, source="s")
    assert [facts(row) for row in batches.rows] == [facts(row) for row in whole.rows]
    assert batches.counts == whole.counts


def test_rows_are_read_as_from_a_list(real_tokenizer):
    tokenizer = real_tokenizer("gpt2")
    rows = Encoder(tokenizer, resolve_template("plain", tokenizer, "pair"), 40).encode_all(PAIRS, source="s").rows
    every = list(rows)
    assert isinstance(rows, EncodedRows)
    assert len(rows) == len(every) > 20
    assert [facts(row) for row in rows[3:9:2]] == [facts(row) for row in every[3:9:2]]
    assert facts(rows[-1]) == facts(every[-1])
    assert rows.lengths.tolist() == [len(row) for row in every]
    with pytest.raises(IndexError):
        rows[len(rows)]


LOOKS = [
    "{{ m.content.upper() }}",
    "{{ m.content | length }}",
    "{{ m.content | upper }}",
    "{{ m.content | replace('a', 'b') }}",
    "{% if m.content is lower %}a{% endif %}",
    "{% if m.content > 'm' %}a{% endif %}",
    "{{ m.content[0:2] }}",
    "{{ '%s' % m.content }}",
    "{{ '{}'.format(m.content) }}",
    "{{ m | tojson }}",
    "{{ m }}",
    "{{ [m.content] | join('-') }}",
    "{{ messages | map(attribute='content') | join }}",
    "{{ messages | map(attribute='content') | unique | list | length }}",
    "{{ m.content * 2 }}",
    "{{ (m.content ~ 'x') | length }}",
    "{% filter upper %}{{ m.content }}{% endfilter %}",
    "{% macro f() %}{{ m.content }}{% endmacro %}{{ f() | upper }}",
    "{{ {m.content: 1} | length }}",
    "{{ m.content.split(sep='t') | last }}",
    "{% autoescape true %}{{ m.content }}{% endautoescape %}",
    "{% set x %}{{ m.content }}{% endset %}{{ x | length }}",
    "{% if m.content | length is number and m.content == '' %}a{% endif %}",
    "{% for i in range(m.content | length) %}a{% endfor %}",
    "{{ (m.content | length | int) // 3 }}",
    "{{ (messages | list)[m.content | length] }}",
    "{{ 'abc'[m.content] }}",
    "{{ {'a': 1}[m.content] }}",
    "{% if {'a': 1}[m.content | length] %}a{% endif %}",
    "{% if (m.content | length) is divisibleby 2 %}a{% endif %}",
    "{% if m.content.startswith(('long', 'b')) %}a{% endif %}",
    "{% if m.content is sameas 'long text' %}a{% endif %}",
]
WRITES = [
    "{{ m.content }}",
    "{{ m.content.__class__ }}",
    "{{ messages | selectattr('content') | list | length }}",
    "{{ m['content'] | trim }}",
    "{{ m.content.strip() ~ m.role }}",
    "{{ 'a' + (m.content + 'b') }}",
    "{% if m.content is string and m.content is defined and m.content is not none %}{{ m.content }}{% endif %}",
    "{% if m.content %}{{ m.content }}{% else %}empty{% endif %}",
    "{% set ns = namespace(x='') %}{% set ns.x = ns.x + m.content %}{{ ns.x }}",
    "{{ messages | map(attribute='content') | first }}",
    "{{ (messages | map(attribute='content') | list)[-1] }}",
    "{{ strftime_now('%d') }}{{ m.content }}",
    "{% if m.content is sequence and m.content is iterable and m.content is not true %}a{% endif %}",
    "{% if m.content == none %}n{% elif m.content != 3 and m.content not in [1] %}{{ m.content | string }}{% endif %}",
    "{% macro said(text, by) %}[{{ text }}{{ by }}]{% endmacro %}{{ said(m.content, by=m.role) }}",
    "{% macro f() %}<{{ caller(m.role) }}>{% endmacro %}{% call(r) f() %}{{ m.content ~ r }}{% endcall %}",
    "{% set x %}{{ m.content }}{{ m.role }}{% endset %}{{ x ~ x }}",
    "{% block b scoped %}{{ m.content }}{% endblock %}",
    "{% generation %}{{ m.content }}{% endgeneration %}",
]
FOLLOWED = [
    "{% if m.content == 'long text' %}a{% endif %}",
    "{% if 'lo' in m.content %}a{% endif %}",
    "{% if m.content in ['long text'] %}a{% endif %}",
    "{% if m.content | trim %}a{% endif %}",
    "{% if m.content != 'long text' %}a{% endif %}",
    "{{ m.content.split('text')[-1] }}",
    "{{ m.content.split('text')[0].rstrip('\n').split(' ')[-1].lstrip('\n') }}|{{ m.content.split(' ') | length }}",
    "{% for part in m.content.split('t') %}{{ part }},{% endfor %}",
    "{% if m.content.startswith('long') and not m.content.endswith('\n') %}{{ m.content.strip() }}{% endif %}",
    "{{ m.content | default('none', true) }}{{ m.missing | default(m.content) }}",
    "{% macro f(t) %}{{ t }}{% endmacro %}{% set c = f(m.content) | trim %}{% if 'long' in c %}{{ c }}{% endif %}",
    "{% set x %}{{ m.content }}{% endset %}{% if x == 'long text' %}a{% else %}{{ x.split(' ')[0] }}{% endif %}",
    "{% filter trim %}{{ m.content }}{% endfilter %}",
    "{% if loop.changed(m.content) %}a{% endif %}",
    "{{ m.content.startswith(m.content) }}{{ m.content == messages[0].content }}",
    "{% if 'g' in m.content ~ 'x' and (m.content ~ '\n').endswith('t\n') %}a{% endif %}",
    "{% macro f() %}{{ m.content }}x{% endmacro %}{% if f() == 'x' %}a{% endif %}{{ (f() ~ m.content) | trim }}",
    "{% if m.content | trim | length > 0 %}a{% endif %}{% if 8 >= m.content | count %}b{% endif %}",
    "{% if not m.content | length %}a{% endif %}{{ [m.content | length, 7] | max == 7 }}",
    "{% if 'long' in m.content %}{{ m.content | trim }}{% elif m.content.strip('b ') %}b{% endif %}",
]


def rendered(template: ChatTemplate, texts: list[str], *, kept: bool) -> str:
    turns = [{"role": role, "content": text} for role, text in zip(("user", "assistant"), texts, strict=True)]
    if not kept:
        template._fills = False
    return template.render(turns, add_generation_prompt=False, origin="f:1")


@pytest.mark.parametrize("body", LOOKS + WRITES + FOLLOWED)
def test_what_is_kept_of_a_template_renders_any_texts(real_tokenizer, monkeypatch, body):
    tokenizer = real_tokenizer("gpt2")
    monkeypatch.setattr(tokenizer, "chat_template", "{% for m in messages %}" + body + "|{% endfor %}")
    keeps = ChatTemplate(tokenizer, datetime.date(2026, 11, 29))
    for texts in itertools.product(["long text", " Short\n", "", "b <{{ x }}>", "long text\ufdee0\ufdef"], repeat=2):
        anew = ChatTemplate(tokenizer, datetime.date(2026, 11, 29))
        assert rendered(keeps, list(texts), kept=True) == rendered(anew, list(texts), kept=False)
    assert bool(keeps._slots) == (body not in LOOKS)


def test_a_template_that_refuses_a_conversation_refuses_it_every_time(real_tokenizer, monkeypatch):
    tokenizer = real_tokenizer("gpt2")
    source = "{% for m in messages %}{% if m.content == 'no' %}{{ raise_exception('no') }}{% endif %}x{% endfor %}"
    monkeypatch.setattr(tokenizer, "chat_template", source)
    template = ChatTemplate(tokenizer, datetime.date(2026, 11, 29))
    assert rendered(template, ["yes", "yes"], kept=True) == "xx"
    for _ in range(2):
        with pytest.raises(DataError, match="refuses"):
            rendered(template, ["yes", "no"], kept=True)

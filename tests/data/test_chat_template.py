"""Chat templates are rendered as transformers renders them, within limits, on one day."""

from __future__ import annotations

import copy
import datetime
import time

import pytest
from transformers import PreTrainedTokenizerFast

from distillab.data.chat_template import ChatTemplate
from distillab.data.template_limits import LONGEST_SOURCE
from distillab.errors import DataError

DAY = datetime.date(2026, 11, 29)
TURNS = [
    {"role": "system", "content": " Be short. "},
    {"role": "user", "content": "a & b <c>\n"},
    {"role": "assistant", "content": "<think>\nx\n</think>\n\nyes"},
    {"role": "user", "content": "größe 你好"},
]
LOOP = "{% for m in messages %}{{ m.role ~ ':' ~ m['content'] | trim }}{{ eos_token }}\n{% endfor %}"
EVERYTHING = """{%- macro shown(m, mark='') -%}
{{ '<|' + m.role + '|>' }}{{ mark }}
{%- if m.content is string %}{{ m.content.split('</think>')[-1].lstrip('\\n') }}{% endif %}
{%- endmacro -%}
{%- set ns = namespace(seen=0, parts=[]) -%}
{{ bos_token }}{% if tools is none and documents is none %}{% endif %}
{%- for m in messages if m.role != 'nobody' recursive %}
    {%- if loop.index0 > 5 %}{% break %}{% endif %}
    {%- if m.role == 'system' and not loop.first %}{% continue %}{% endif %}
    {%- set ns.seen = ns.seen + loop.length * 2 ** 3 % 5 %}
    {%- set ns.parts = ns.parts + [m.content] %}
    {{- shown(m, mark='%s-%03d' % (loop.index, 7)) }}{% generation %}{{ loop.cycle('x', 'y') }}{% endgeneration %}
    {%- if loop.last %}{{ m | tojson }}{{ m.content.replace('e', 'ee').upper() }}{{ '{:>5}'.format(3) }}{% endif %}
{% endfor %}
{%- set block %}{{ ns.seen }}{{ [1, 'a', none, {'b': 2.5}] }}{% endset %}
{{ block | trim ~ dict(a=1) ~ messages[1:][::-1] | length ~ missing_variable ~ true }}
{{ messages | map(attribute='role') | unique | join(', ') }}|{{ ns.parts | join('+') }}|{{ 'x'.join(['1', '2']) }}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ '-' * 3 }}{{ 'a' | center(9) }}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""
BOMBS = {
    "a long text": "{{ 'x' * 10**11 }}",
    "a long text, folded": "{{ 'x' * 100000000000 }}",
    "a long list": "{{ ([0] * 10**10) | length }}",
    "a large power": "{{ 10 ** (10 ** 10) }}",
    "powers of powers": "{% set ns = namespace(n=3) %}{% for i in range(60) %}{% set ns.n = ns.n * ns.n %}{% endfor %}",
    "a range": "{% for i in range(10**9) %}{% endfor %}",
    "loops in loops": "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
    "a silent filter": "{% for i in range(90000) %}{% set x = range(90000) | list | length %}{% endfor %}",
    "doubling": "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "doubling by ~": "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "nested lists": "{% set ns = namespace(l=['x']) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}"
    "{{ ns.l }}",
    "nested lists as JSON": "{% set ns = namespace(l=['x']) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}"
    "{% endfor %}{{ ns.l | tojson }}",
    "recursion": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "a block in a block": "{% set a %}{% for i in range(9000) %}{{ 'x' * 9000 }}{% endfor %}{% endset %}",
    "much output": "{% for i in range(90000) %}{{ 'x' * 90000 }}{% endfor %}",
    "center": "{{ 'x' | center(10**11) }}",
    "center, folded": "{{ 'x' | center(100000000000) }}",
    "indent": "{{ 'x\\ny' | indent(10**11) }}",
    "ljust": "{{ 'x'.ljust(10**11) }}",
    "zfill": "{{ 'x'.zfill(10**11) }}",
    "expandtabs": "{{ ('\\t' * 9000).expandtabs(10**8) }}",
    "a wide number": "{{ '%100000000000d' % 1 }}",
    "a width given": "{{ '%*d' % (10**10, 1) }}",
    "a wide field": "{{ '{:100000000000}'.format(1) }}",
    "a field given": "{{ '{:{w}}'.format(1, w=10**10) }}",
    "a wide field of a map": "{{ '{a:100000000000}'.format_map({'a': 1}) }}",
    "the filter format": "{{ '%100000000000d' | format(1) }}",
    "replace": "{{ ('x' * 9000000).replace('x', 'y' * 9000) }}",
    "replace, the filter": "{{ ('x' * 9000000) | replace('x', 'y' * 9000) }}",
    "join": "{{ ('x' * 9000000).join(['a'] * 9000) }}",
    "join, the filter": "{{ (['a'] * 9000) | join('x' * 9000000) }}",
    "join of many": "{{ ''.join(['x' * 9000000] * 9000) }}",
    "bytes": "{{ (1).to_bytes(10**11, 'big') | length }}",
    "mapped": "{{ ['x'] | map('center', 10**11) | list }}",
    "batches": "{{ [1] | batch(10**10, 'x') | list | length }}",
    "indented JSON": "{{ [[1]] | tojson(indent=10**10) }}",
    "filler text": "{{ lipsum(n=10**9) }}",
}


@pytest.fixture
def tokenizer(chat_tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    return copy.deepcopy(chat_tokenizer)  # each test gives it a template of its own


def _template(tokenizer: PreTrainedTokenizerFast, source: str, date: datetime.date = DAY) -> ChatTemplate:
    tokenizer.chat_template = source
    return ChatTemplate(tokenizer, date)


@pytest.mark.parametrize("ask", [True, False])
@pytest.mark.parametrize("source", [LOOP, EVERYTHING], ids=["loop", "everything"])
def test_a_template_is_rendered_as_transformers_renders_it(
    tokenizer: PreTrainedTokenizerFast, source: str, ask: bool
) -> None:
    tokenizer.chat_template = source
    for length in range(1, len(TURNS) + 1):
        expected = tokenizer.apply_chat_template(TURNS[:length], tokenize=False, add_generation_prompt=ask)
        assert ChatTemplate(tokenizer, DAY).render(TURNS[:length], add_generation_prompt=ask, origin="row") == expected


@pytest.mark.timeout(60)
@pytest.mark.parametrize("source", BOMBS.values(), ids=BOMBS.keys())
def test_a_template_without_bounds_is_stopped(tokenizer: PreTrainedTokenizerFast, source: str) -> None:
    begin = time.process_time()
    with pytest.raises(DataError) as refusal:
        _template(tokenizer, source).render(TURNS, add_generation_prompt=True, origin="row")
    assert time.process_time() - begin < 15
    assert refusal.value.fix is not None and refusal.value.where is not None


def test_a_template_of_megabytes_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match="too long"):
        _template(tokenizer, "x" * (LONGEST_SOURCE + 1))
    with pytest.raises(DataError, match="cannot be compiled"):
        _template(tokenizer, "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}")


def test_a_long_conversation_is_within_the_limits(tokenizer: PreTrainedTokenizerFast) -> None:
    turns = [{"role": role, "content": "x" * 2000} for _ in range(500) for role in ("user", "assistant")]
    assert len(_template(tokenizer, LOOP).render(turns, add_generation_prompt=False, origin="row")) > 2_000_000


def test_today_is_a_fixed_day(tokenizer: PreTrainedTokenizerFast) -> None:
    source = "Today is {{ strftime_now('%d %b %Y, %H:%M') }}." + LOOP
    template = _template(tokenizer, source)
    assert template.reads_date
    assert template.render(TURNS, add_generation_prompt=True, origin="row").startswith("Today is 29 Nov 2026, 00:00.")
    other = _template(tokenizer, source, datetime.date(2020, 1, 2))
    assert other.render(TURNS, add_generation_prompt=True, origin="row").startswith("Today is 02 Jan 2020")
    # neither has touched what transformers keeps for everybody
    assert "29 Nov 2026" in template.render(TURNS, add_generation_prompt=True, origin="row")
    assert not _template(tokenizer, LOOP).reads_date

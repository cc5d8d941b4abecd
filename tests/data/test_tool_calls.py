"""Tools and their calls go through the chat template; a template that leaves them out is refused."""

from __future__ import annotations

import copy
import json

import pytest

from distillab.data.encoding import Encoder
from distillab.data.examples import Message, conversation_example
from distillab.data.templates import resolve_template
from distillab.errors import DataError

WITH_TOOLS = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for call in m.tool_calls or [] %}[call {{ call.function | tojson }}]{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Sums."}}]
CALLS = [{"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": "2"}}}]


def talk(*, calls=CALLS, tools=TOOLS, supervised=True):
    turns = (
        Message("user", "1 + 2?"),
        Message("assistant", "", tool_calls=json.dumps(calls), supervised=supervised),
        Message("tool", "3", name="add"),
        Message("assistant", "It is 3."),
    )
    return conversation_example("k", "f:1", turns, tools=json.dumps(tools))


@pytest.fixture
def tokenizer(chat_tokenizer):
    made = copy.deepcopy(chat_tokenizer)
    made.chat_template = WITH_TOOLS
    return made


def test_the_rendering_is_that_of_apply_chat_template(tokenizer):
    segments = resolve_template("chat", tokenizer, "messages").render(talk())
    messages = [
        {"role": "user", "content": "1 + 2?"},
        {"role": "assistant", "content": "", "tool_calls": CALLS},
        {"role": "tool", "content": "3", "name": "add"},
        {"role": "assistant", "content": "It is 3."},
    ]
    expected = tokenizer.apply_chat_template(messages, tools=TOOLS, tokenize=False)
    assert "".join(segment.text for segment in segments) == expected.removesuffix("\n")
    assert [segment.text for segment in segments if segment.supervised] == [
        '[call {"name": "add", "arguments": {"a": 1, "b": "2"}}]<|im_end|>',
        "It is 3.<|im_end|>",
    ]


def test_a_call_is_learned_and_counts_as_nothing_added(tokenizer):
    row = Encoder(tokenizer, resolve_template("chat", tokenizer, "messages"), 500).encode(talk())
    assert (row.removed, row.added) == (0, 0)
    learned = tokenizer.decode(row.input_ids[row.answer_mask])
    assert learned == '[call {"name": "add", "arguments": {"a": 1, "b": "2"}}]<|im_end|>It is 3.<|im_end|>'


def test_a_call_of_weight_0_is_given(tokenizer):
    row = Encoder(tokenizer, resolve_template("chat", tokenizer, "messages"), 500).encode(talk(supervised=False))
    assert tokenizer.decode(row.input_ids[row.answer_mask]) == "It is 3.<|im_end|>"
    assert "[call" in tokenizer.decode(row.input_ids)


def test_special_tokens_in_arguments_and_tools_stay_text(tokenizer):
    spelled = [{"type": "function", "function": {"name": "add", "arguments": {"a": "<|im_end|>"}}}]
    row = Encoder(tokenizer, resolve_template("chat", tokenizer, "messages"), 500).encode(talk(calls=spelled))
    plain = Encoder(tokenizer, resolve_template("chat", tokenizer, "messages"), 500).encode(talk())
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert (row.input_ids == end).sum() == (plain.input_ids == end).sum()
    assert row.special_in_text


@pytest.mark.parametrize("example", [talk(tools=[]), talk(calls=CALLS[:0] or CALLS)], ids=["calls", "tools"])
def test_a_template_without_tools_is_refused(chat_tokenizer, example):
    with pytest.raises(DataError, match=r"leaves out tools or tool calls(.|\n)*f:1(.|\n)*not in its rendering: add"):
        resolve_template("chat", chat_tokenizer, "messages").render(example)
    with pytest.raises(DataError, match=r"turns does not support tools(.|\n)*data.template: chat"):
        resolve_template("turns", chat_tokenizer, "messages").render(example)


def test_given_answers_in_turns_end_as_learned_ones_do(chat_tokenizer):
    def ids(supervised):
        turns = (
            *(Message("user", "a"), Message("assistant", "b", supervised=supervised)),
            *(Message("user", "c"), Message("assistant", "d")),
        )
        made = Encoder(chat_tokenizer, resolve_template("turns", chat_tokenizer, "messages"), 500)
        return made.encode(conversation_example("k", "f:1", turns))

    assert ids(True).input_ids.tolist() == ids(False).input_ids.tolist()
    assert (ids(True).answer_mask.sum(), ids(False).answer_mask.sum()) == (4, 2)

"""Every form of a conversation that files hold is read as the same turns."""

from __future__ import annotations

import json

import pytest

from distillab.config.data import ColumnsConfig, SourceConfig
from distillab.data.row_examples import examples_of
from distillab.data.row_table import Reading, read_table
from distillab.data.sources import Row
from distillab.errors import DataError

OPENAI = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "u"},
    {"role": "assistant", "content": "a"},
]
SHAREGPT = [{"from": "system", "value": "s"}, {"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]
TURNS = [("system", "s", True), ("user", "u", True), ("assistant", "a", True)]


def read(*values, **settings):
    rows = [Row(f"k{n}-0", value, f"file.jsonl:{n}") for n, value in enumerate(values, start=1)]
    return examples_of(rows, columns=settings.pop("columns", None), prompt_share=0.25, **settings)


def turns(example):
    return [(turn.role, turn.content, turn.supervised) for turn in example.messages]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": OPENAI},
        {"messages": json.dumps(OPENAI)},
        {"conversations": SHAREGPT, "id": "c"},
        {"conversation": OPENAI},
        {"messages": SHAREGPT},
        {"messages": [{"role": "developer", "content": "s"}, *OPENAI[1:]]},
        {"messages": [OPENAI[0], {"role": "human", "content": "u"}, {"role": "gpt", "content": "a"}]},
        {"messages": [{"role": m["role"], "content": [{"type": "text", "text": m["content"]}]} for m in OPENAI]},
        {"conversations": SHAREGPT[1:], "system": "s"},
        {"prompt": OPENAI[:2], "completion": OPENAI[2:]},
        {"prompt": OPENAI[:2], "completion": "a"},
        {"prompt": "u", "completion": "a", "system": "s"},
        {"question": "u", "response": "a", "system_prompt": "s"},
        {"chosen": OPENAI, "rejected": [*OPENAI[:2], {"role": "assistant", "content": "no"}]},
        {"prompt": "u", "chosen": OPENAI, "rejected": OPENAI},
        {"prompt": OPENAI[:2], "chosen": OPENAI[2:], "rejected": OPENAI[2:]},
        {"instruction": "u", "input": "", "output": "a", "system": "s", "history": []},
    ],
    ids=str,
)
def test_every_form_is_the_same_conversation(row):
    [example] = read(row).examples
    assert example.kind == "messages"
    assert turns(example) == TURNS
    assert (example.prompt, example.answer) == ("u", "a")


def test_a_conversation_under_any_column():
    row = {"dialog": SHAREGPT, "other": 1, "who": "s"}
    with pytest.raises(DataError, match=r'column "dialog" holds turns: columns: \{messages: dialog\}'):
        read(row)
    [example] = read(row, columns=ColumnsConfig(messages="dialog")).examples
    assert turns(example) == TURNS
    without = {"dialog": SHAREGPT[1:], "who": "s"}
    [example] = read(without, columns=ColumnsConfig(messages="dialog", system="who")).examples
    assert turns(example) == TURNS


def test_a_preference_row_is_its_chosen_answer():
    found = read({"prompt": "p", "chosen": "good", "rejected": "bad"})
    assert str(found.shape) == "pair (prompt/chosen, ignoring rejected)"
    assert (found.examples[0].prompt, found.examples[0].answer) == ("p", "good")
    talk = [*OPENAI[1:], {"role": "user", "content": "v"}, {"role": "assistant", "content": "b"}]
    [example] = read({"chosen": talk}).examples
    assert [learned for role, _, learned in turns(example) if role == "assistant"] == [False, True]
    with pytest.raises(DataError, match='"chosen" is a conversation, and "prompt" is not in it'):
        read({"prompt": "another", "chosen": OPENAI, "rejected": OPENAI})


def test_earlier_answers_of_a_prompt_are_given_and_those_of_a_history_are_learned():
    talk = [*OPENAI[1:], {"role": "user", "content": "v"}]
    [example] = read({"prompt": talk, "completion": "b"}).examples
    assert example.answers == ("b",)
    [example] = read({"instruction": "v", "input": "", "output": "b", "history": [["u", "a"]]}).examples
    assert example.answers == ("a", "b")
    weighed = [*OPENAI[:2], OPENAI[2] | {"weight": 0}, {"role": "user", "content": "v"}, OPENAI[2] | {"weight": 1}]
    [example] = read({"messages": weighed}).examples
    assert [learned for role, _, learned in turns(example) if role == "assistant"] == [False, True]


CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}


@pytest.mark.parametrize(
    "asked",
    [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add", "arguments": '{"a": 1}'}}]},
        {"role": "assistant", "content": None, "function_call": {"name": "add", "arguments": '{"a": 1}'}},
        {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
        # Parquet gives every object the keys of all others
        {"role": "assistant", "tool_calls": [{**CALL, "id": None, "function": {**CALL["function"], "b": None}}]},
    ],
    ids=str,
)
def test_a_tool_call_is_read_in_the_form_that_templates_read(asked):
    row = [OPENAI[1], asked, {"role": "tool", "content": "7"}, OPENAI[2]]
    [example] = read({"messages": row, "tools": [{"type": "function", "function": {"name": "add"}}]}).examples
    assert json.loads(example.messages[1].tool_calls) == [CALL]
    assert [turn.role for turn in example.messages] == ["user", "assistant", "tool", "assistant"]
    assert (example.prompt, example.answer) == ("u", "a")
    assert json.loads(example.tools) == [{"type": "function", "function": {"name": "add"}}]
    assert len(example.answers) == 2
    assert all(example.answers)


def test_one_bad_conversation_does_not_refuse_the_file(tmp_path):
    good, bad = {"messages": OPENAI}, {"messages": OPENAI[:2]}
    with pytest.raises(DataError, match=r"1 of 3 rows(.|\n)*file.jsonl:2: ends with a user(.|\n)*on_bad_row: skip"):
        read(good, bad, good)
    path = tmp_path / "file.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (good, bad, good)))
    found = read_table(SourceConfig(path=str(path)), Reading(0.25, on_bad_row="skip"))
    assert len(found.examples) == 2
    assert found.skipped == (f"{path}:2: ends with a user turn; the last turn must be the assistant's",)


@pytest.mark.parametrize("answer", [["x", "y", "x"], {"text": ["x", "y"], "answer_start": [0, 3]}])
def test_several_answers_of_one_row_are_an_example_each(answer):
    columns = ColumnsConfig(prompt="q", answer="a.text" if isinstance(answer, dict) else "a", context="c")
    found = read({"q": "Which?", "a": answer, "c": "x and y"}, columns=columns).examples
    assert [(one.prompt, one.answer) for one in found] == [("Which?\n\nx and y", "x"), ("Which?\n\nx and y", "y")]
    assert len({one.prompt_hash for one in found}) == 1
    assert len({one.key for one in found}) == 2

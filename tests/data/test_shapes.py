"""Which columns are read, in which order, and which rows are refused."""

from __future__ import annotations

import json

import pytest

from distillab.config.data import ColumnsConfig, SourceConfig
from distillab.data.row_examples import to_examples
from distillab.data.shapes import columns_of, recognise
from distillab.data.sources import Row, read_rows
from distillab.errors import DataError


def rows(*values):
    return [Row(f"k{n}-0", value, f"file.jsonl:{n}") for n, value in enumerate(values, start=1)]


def examples(*values, columns=None, share=0.25):
    return to_examples(rows(*values), columns=columns, prompt_share=share)


def chat(*turns):
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


@pytest.mark.parametrize(
    ("row", "shown", "prompt", "answer"),
    [
        ({"prompt": "p", "completion": "c"}, "pair (prompt/completion)", "p", "c"),
        ({"prompt": "p", "answer": "c"}, "pair (prompt/answer)", "p", "c"),
        ({"question": "p", "answer": "c", "id": 1}, "pair (question/answer, ignoring id)", "p", "c"),
        ({"instruction": "p", "output": "c"}, "pair (instruction/output)", "p", "c"),
        ({"instruction": "p", "input": "x", "output": "c"}, "pair (instruction/input/output)", "p\n\nx", "c"),
        ({"instruction": "p", "input": "", "output": "c"}, "pair (instruction/input/output)", "p", "c"),
        ({"instruction": "p", "input": None, "output": "c"}, "pair (instruction/input/output)", "p", "c"),
        (
            {"instruction": "i", "prompt": "Below is i", "input": "", "output": "c"},
            "pair (instruction/input/output, ignoring prompt)",
            "i",
            "c",
        ),
        ({"prompt": "p", "completion": "c", "text": "pc"}, "pair (prompt/completion, ignoring text)", "p", "c"),
        ({"text": "one two three four"}, "text (text)", "one", " two three four"),
        (chat(("user", "u"), ("assistant", "a")), "messages (messages)", "u", "a"),
        (
            {**chat(("user", "u"), ("assistant", "a")), "prompt": "x", "answer": "y"},
            "messages (messages, ignoring prompt, answer)",
            "u",
            "a",
        ),
    ],
)
def test_recognised_shapes_in_their_order(row, shown, prompt, answer):
    assert str(recognise(columns_of(rows(row)), None)) == shown
    [example] = examples(row)
    assert (example.prompt, example.answer) == (prompt, answer)


def test_explicit_columns_come_first():
    row = {"prompt": "p", "answer": "a", "q": "Q", "r": 7}
    [example] = examples(row, columns=ColumnsConfig(prompt="q", answer="r"))
    assert (example.prompt, example.answer) == ("Q", "7")
    [example] = examples(row, columns=ColumnsConfig(text="q"))
    assert example.kind == "text"
    with pytest.raises(DataError, match=r'no column "promt"(.|\n)*did you mean "prompt"'):
        examples(row, columns=ColumnsConfig(prompt="promt", answer="r"))


def test_unknown_columns_are_listed_with_the_way_out():
    with pytest.raises(DataError, match=r"columns: a, b(.|\n)*question/answer(.|\n)*columns: \{prompt: …, answer: …\}"):
        examples({"a": "x", "b": "y"})


def test_instances_of_an_instruction_are_an_example_each(materials):
    found = read_rows(SourceConfig(path=str(materials / "text" / "self-instruct" / "seed_tasks.jsonl")))
    read = to_examples(found, columns=None, prompt_share=0.25)
    assert [example.key for example in read] == [row.key for row in found]
    first = found[0].values
    instance = first["instances"][0]
    assert read[0].prompt == "\n\n".join(part for part in (first["instruction"], instance["input"]) if part)
    assert read[0].answer == instance["output"]
    twice = {"instruction": "Add.", "instances": [{"input": "1, 2", "output": "3"}, {"input": "", "output": "?"}]}
    assert [(one.key, one.prompt, one.answer) for one in examples(twice)] == [
        ("k1-0.0", "Add.\n\n1, 2", "3"),
        ("k1-0.1", "Add.", "?"),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p"}, r'file\.jsonl:2: has no "answer"'),
        ({"prompt": "p", "answer": None}, r'file\.jsonl:2: "answer" is null'),
        ({"prompt": None, "answer": "a"}, '"prompt" is null'),
        ({"prompt": 3, "answer": "a"}, '"prompt" is a int, not text'),
        ({"prompt": "p", "answer": True}, '"answer" is a bool, not text'),
        ({"prompt": "p", "answer": [True]}, '"answer", item 1 is a bool, not text'),
        ({"prompt": "p", "answer": {"text": "a"}}, '"answer" holds text; name one, as answer: answer.text'),
        ({"prompt": "p", "answer": b"a"}, '"answer" is a bytes, not text'),
        ({"prompt": "p", "answer": float("inf")}, '"answer" is infinite'),
        ({"prompt": " \n", "answer": "a"}, '"prompt" is empty'),
        ({"prompt": "p\ud800", "answer": "a"}, "half a surrogate pair at character 1"),
    ],
)
def test_a_bad_row_among_good_ones_is_named(row, message):
    good = {"prompt": "p", "answer": "a"}
    with pytest.raises(DataError, match=message) as caught:
        examples(good, row, good)
    assert caught.value.rule.startswith("1 of 3 rows")
    assert caught.value.where == "file.jsonl"


def test_numbers_as_answers_are_written_as_json_writes_them():
    found = examples({"question": "q", "answer": 72}, {"question": "q", "answer": 0.5})
    assert [example.answer for example in found] == ["72", "0.5"]


def test_bad_rows_are_counted_and_five_shown():
    with pytest.raises(DataError) as caught:
        examples({"prompt": "p", "answer": "a"}, *[{"prompt": "p"}] * 9)
    assert caught.value.rule.startswith("9 of 10 rows")
    assert caught.value.facts[-1] == "… and 4 more"


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([("user", "u")], "ends with a user turn"),
        ([("assistant", "a")], "turn 1 is assistant, where user is expected"),
        ([("system", "s"), ("assistant", "a")], "turn 2 is assistant, where user is expected"),
        ([("user", "u"), ("system", "s"), ("assistant", "a")], "turn 2 is system"),
        ([("narrator", "u"), ("gpt", "a")], 'role "narrator"; roles: system, developer, user, human, assistant'),
        ([("user", "u"), ("assistant", None)], "turn 2 is null"),
        ([("user", "u"), ("user", "v"), ("assistant", "a")], "turn 2 is user, where assistant is expected"),
        ([("user", "u"), ("tool", "v"), ("assistant", "a")], "turn 2 is tool, where assistant is expected"),
    ],
)
def test_conversations_must_be_well_formed(turns, message):
    with pytest.raises(DataError, match=message):
        examples(chat(*turns))


def test_what_cannot_be_learned_of_a_turn_is_refused_with_its_name():
    with pytest.raises(DataError, match=r"no role and content, nor from and value \(it has: speaker, text\)"):
        examples({"messages": [{"speaker": "human", "text": "u"}]})
    with pytest.raises(DataError, match="keys that cannot be trained on: reasoning_content"):
        examples({"messages": [{"role": "user", "content": "u", "reasoning_content": "hm"}]})
    with pytest.raises(DataError, match="turn 1 has the role user and tool calls"):
        examples({"messages": [{"role": "user", "content": "u", "tool_calls": [1]}]})
    with pytest.raises(DataError, match='part 2 is of the type "image_url"; only text is read'):
        examples({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}]})
    with pytest.raises(DataError, match="not a list of turns"):
        examples({"messages": "hello"})
    with pytest.raises(DataError, match="last turn has weight 0"):
        examples({"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a", "weight": 0}]})


@pytest.mark.parametrize("share", [0.01, 0.25, 0.5, 0.99])
@pytest.mark.parametrize("text", ["a", "a a a  a\n\na a ", " lead trail ", "", "aa a aaa a"])
def test_plain_text_is_cut_between_words_and_nothing_is_lost(text, share):
    [example] = examples({"text": text}, share=share)
    assert example.prompt + example.answer == text
    words = len(text.split())
    assert len(example.prompt.split()) == (0 if words < 2 else min(max(1, round(words * share)), words - 1))
    if words > 1:
        assert example.answer[0].isspace()


def test_with_answer_replaces_the_last_answer_only():
    [pair] = examples({"prompt": "p", "answer": "a"})
    assert (pair.with_answer("b").prompt, pair.with_answer("b").answer, pair.with_answer("b").key) == ("p", "b", "k1-0")
    [talk] = examples(chat(("user", "u"), ("assistant", "a"), ("user", "v"), ("assistant", "b")))
    changed = talk.with_answer("c")
    assert [message.content for message in changed.messages] == ["u", "a", "v", "c"]
    assert changed.answer == "c"
    assert talk.answer == "b"
    [text] = examples({"text": "one two three four"})
    assert text.with_answer(" 2").prompt + text.with_answer(" 2").answer == "one 2"


def test_content_ignores_other_columns():
    first, second, third = examples(
        {"prompt": "p", "answer": "a", "id": 1}, {"prompt": "p", "answer": "a", "id": 2}, {"prompt": "pa", "answer": ""}
    )
    assert first.content == second.content != third.content


def test_real_files_are_recognised(materials):
    for file, shown in [
        ("gsm8k/train.jsonl", "pair (question/answer)"),
        ("dolly/dev.jsonl", "pair (instruction/input/output, ignoring prompt)"),
        ("tinystories/stories_dev.jsonl", "text (text)"),
    ]:
        found = read_rows(SourceConfig(path=str(materials / "text" / file), limit=200))
        assert str(recognise(columns_of(found), None)) == shown
        first = json.loads((materials / "text" / file).read_text(encoding="utf-8").partition("\n")[0])
        example = to_examples(found, columns=None, prompt_share=0.25)[0]
        assert example.answer in (first.get("answer"), first.get("output")) or example.kind == "text"


@pytest.mark.parametrize(
    ("text", "share", "prompt"),
    [
        ("桃を割ると中から元気な男の子が生まれました。", 0.25, "桃を割ると中"),
        ("你好世界", 0.25, "你"),
        ("สวัสดีครับ", 0.5, "สวัสดี"),
        ("Supercalifragilistic", 0.25, "Super"),
        ("Hello", 0.25, "H"),
        ("서울은 한국의 수도입니다", 0.4, "서울은"),
        ("x", 0.25, ""),
        ("  one two  three four", 0.5, "  one two"),
    ],
)
def test_the_prompt_of_a_text_is_cut_by_characters_where_there_are_no_words(text: str, share: float, prompt: str):
    example = to_examples(rows({"text": text}), columns=None, prompt_share=share)[0]
    assert (example.prompt, example.prompt + example.answer) == (prompt, text)

"""Prompts that the teacher alone reads: in pairs, in conversations, and where the student's answer is cut."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from distillab.data.encoding import EncodedRow, Encoder
from distillab.data.row_examples import examples_of
from distillab.data.sources import Row
from distillab.data.teacher_columns import require_every_teacher, require_names, teacher_rows, with_teacher_prompts
from distillab.data.templates import resolve_template
from distillab.errors import DataError

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "It is 4."},
    {"role": "user", "content": "And 3 + 3?"},
    {"role": "assistant", "content": "It is 6, said Anna."},
]
PAIR = {"question": "What is 2 + 2?", "context": "A quick one.", "answer": "It is 4."}


def read(*values, beside=("hint",)):
    rows = [Row(f"k{n}-0", value, f"file.jsonl:{n}") for n, value in enumerate(values, start=1)]
    return examples_of(rows, columns=None, prompt_share=0.5, beside=beside)


def encoded(tokenizer: PreTrainedTokenizerFast, row, *, max_tokens: int, context: int | None = None):
    read_rows = read(row)
    encoder = Encoder(tokenizer, resolve_template("chat", tokenizer, read_rows.shape.kind), max_tokens)
    [student] = encoder.encode_all(read_rows.examples, source="rows").rows
    examples = with_teacher_prompts(read_rows.examples, "hint", where="rows")
    [teacher] = teacher_rows(encoder, examples, [student], context=context, where="rows")
    return student, teacher, tokenizer.decode(teacher.input_ids)


def scored(row: EncodedRow) -> list[int]:
    return row.input_ids[row.answer_mask].tolist()


def test_in_a_pair_the_context_stays(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    student, teacher, text = encoded(chat_tokenizer, {**PAIR, "hint": "2 + 2 is even. How much?"}, max_tokens=200)
    assert "2 + 2 is even. How much?\n\nA quick one." in text and "What is 2 + 2?" not in text
    assert scored(teacher) == scored(student)
    assert len(teacher) > len(student) and text.endswith("It is 4.<|im_end|>")


def test_in_a_conversation_the_last_user_turn_is_replaced(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    student, teacher, text = encoded(chat_tokenizer, {"messages": TURNS, "hint": "Six? 3 + 3 = ?"}, max_tokens=400)
    assert "Six? 3 + 3 = ?" in text and "And 3 + 3?" not in text
    assert "Be brief." in text and "What is 2 + 2?" in text
    assert scored(teacher) == scored(student)  # both answers


@pytest.mark.parametrize("cut", [1, 4, 30, 60])
def test_a_cut_answer_is_cut_at_the_same_token(chat_tokenizer: PreTrainedTokenizerFast, cut: int) -> None:
    """Also where the student's row ends before the turn that is replaced."""
    row = {"messages": TURNS, "hint": "A hint that is a good deal longer than the prompt. " * 3}
    whole, _, _ = encoded(chat_tokenizer, row, max_tokens=1000)
    first = int(np.flatnonzero(whole.answer_mask)[0])
    length = max(len(whole) - cut, first + 1)
    student, teacher, _ = encoded(chat_tokenizer, row, max_tokens=length)
    assert student.truncated and len(student) == length
    # a new answer to the row is to the same turn
    assert teacher.answer_mask[teacher.prompt_length :].all() and not teacher.answer_mask[teacher.prompt_length - 1]
    assert len(teacher) - teacher.prompt_length == student.answer_mask[student.prompt_length :].sum()
    assert scored(teacher) == scored(student) and teacher.answer_mask[-1]


def test_the_teachers_context_is_the_limit(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    row = {**PAIR, "hint": "a hint " * 40}
    _, teacher, _ = encoded(chat_tokenizer, row, max_tokens=60)
    assert len(teacher) > 60
    encoded(chat_tokenizer, row, max_tokens=60, context=len(teacher))
    with pytest.raises(DataError, match=f"1 of 1 rows do not fit into the teacher's context of {len(teacher) - 1} "):
        encoded(chat_tokenizer, row, max_tokens=60, context=len(teacher) - 1)


def test_plain_text_has_no_prompt_to_replace() -> None:
    with pytest.raises(DataError, match="Plain text has no prompt"):
        with_teacher_prompts(read({"text": "one two three", "hint": "h"}).examples, "hint", where="rows")


def test_columns_of_the_teacher_are_no_other_row() -> None:
    one, other = (read({**PAIR, "hint": hint}) for hint in ("a", "b"))
    assert one.examples[0].content == other.examples[0].content
    assert one.examples[0].with_answer("x").beside == {"hint": "a"}
    assert "hint" not in one.shape.ignored


def test_names_are_counted_by_value() -> None:
    values = [{**PAIR, "by": name} for name in ("a", "b", "c", "c", None, 1)]
    examples = read(*values, beside=("by",)).examples
    with pytest.raises(DataError, match=r"4 of 6 rows name no teacher") as error:
        require_names(examples, "by", ["a", "b"], where="rows")
    assert [fact.split(",")[0] for fact in error.value.facts] == ["'c': 2 rows", "no name: 1 row", "1: 1 row"]
    assert "file.jsonl:3" in error.value.facts[0]
    require_every_teacher(examples[:2], "by", ["a", "b"], where="rows")
    with pytest.raises(DataError, match="No training row names the teacher b"):
        require_every_teacher(examples[:1], "by", ["a", "b"], where="rows")

"""The student's own answers beside the teacher's reading of them: by bytes, whatever tokens the student chose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distillab.alignment.tables import UNUSED
from distillab.data.aligning import pair_rows, span_aligner
from distillab.data.collation import IndexedRow
from distillab.data.encoding import EncodedRow
from distillab.data.examples import Example, Message
from distillab.data.paired import PairedRow
from distillab.data.reading import load_reader
from distillab.data.written import WrittenPairs

PAIRS = [
    Example(f"k{number}", f"rows:{number}", "pair", prompt, answer)
    for number, (prompt, answer) in enumerate(
        [("Where is the key?", "In the 4th box, Anna."), ("Sum 2 and 2", " 4"), ("日本?", "naïve 日本 🙂\nyes")]
    )
]
TEXTS = [replace(one, kind="text") for one in PAIRS]
CHATS = [
    Example(
        "chat",
        "rows:9",
        "messages",
        "And now?",
        "No, thanks.",
        messages=(
            Message("user", "Tea?"),
            Message("assistant", "Yes, the green one."),
            Message("user", "And now?"),
            Message("assistant", "No, thanks."),
        ),
    )
]


@pytest.fixture(params=["bytes", "words"])
def sides(tiny_world: dict[str, Any], request: pytest.FixtureRequest) -> tuple[str, str]:
    """A byte-level student and a teacher of words with byte fallback, or the other way round."""
    teacher = Path(tiny_world["teacher"]["path"])
    both = (str(teacher), str(teacher.with_name("stranger")))
    return both if request.param == "bytes" else both[::-1]


def written(
    sides: tuple[str, str], examples: list[Example], *, template: str = "plain", max_tokens: int = 200
) -> WrittenPairs:
    student, teacher = (
        load_reader(side, revision=None, template=template, kind=examples[0].kind, max_tokens=max_tokens)
        for side in sides
    )
    split, read = (reader.encoder.encode_all(examples, source="rows") for reader in (student, teacher))
    aligner = span_aligner(student, teacher)
    stored, _ = pair_rows(split.rows, read.rows, aligner=aligner)
    return WrittenPairs(split, stored, student, teacher, aligner)


def one(pairs: WrittenPairs, index: int, answer: list[int], *, ended: bool = True) -> tuple[PairedRow, int]:
    """The row with these ids as the student's answer."""
    given = pairs.split.rows[index]
    ids = np.array([*given.input_ids[: given.prompt_length], *answer], dtype=np.int32)
    row = EncodedRow(given.key, ids, np.arange(len(ids)) >= given.prompt_length, given.prompt_length, not ended)
    (found,), partial = pairs.of([IndexedRow(index, row)], [True])
    return found, partial


def spelled(pairs: WrittenPairs, row: PairedRow) -> list[tuple[bytes, bytes]]:
    """The bytes of the answer's spans, of both."""
    found = []
    for span in range(int(row.student_spans.max()) + 1):
        here = [
            (table, side.input_ids[spans == span], side.answer_mask[spans == span])
            for table, side, spans in (
                (pairs.aligner.student, row.student, row.student_spans),
                (pairs.aligner.teacher, row.teacher, row.teacher_spans),
            )
        ]
        if all(mask.all() for _, _, mask in here):
            student, teacher = (b"".join(table.bytes_of(int(number)) for number in ids) for table, ids, _ in here)
            found.append((student, teacher))
    return found


def text_of(pairs: WrittenPairs, row: PairedRow) -> str:
    """What the teacher reads."""
    text = pairs.teacher.tokenizer.decode(row.teacher.input_ids, skip_special_tokens=True)
    assert isinstance(text, str)
    return text


def single_bytes(pairs: WrittenPairs, text: str) -> list[int]:
    """A text as one token a byte, which no tokenizer would choose."""
    table = pairs.aligner.student
    by_byte = {table.bytes_of(number): number for number in range(len(table)) if table.lengths[number] == 1}
    return [by_byte[bytes([byte])] for byte in text.encode()]


@pytest.mark.parametrize(("examples", "template"), [(PAIRS, "plain"), (TEXTS, "plain"), (CHATS, "turns")])
def test_an_answer_that_is_the_stored_one_is_read_as_the_stored_row(
    sides: tuple[str, str], examples: list[Example], template: str
) -> None:
    pairs = written(sides, examples, template=template)
    for index, stored in enumerate(pairs.stored):
        row = stored.student
        found, partial = one(pairs, index, row.input_ids[row.prompt_length :].tolist())
        assert found.teacher.input_ids.tolist() == stored.teacher.input_ids.tolist() and partial == 0
        assert found.teacher.prompt_length == stored.teacher.prompt_length
        assert found.student_spans.tolist() == stored.student_spans.tolist()
        assert found.teacher_spans.tolist() == stored.teacher_spans.tolist()
        assert found.teacher.answer_mask.sum() == len(found.teacher) - found.teacher.prompt_length


def test_a_space_that_the_student_s_tokenizer_adds_is_not_written(tiny_world: dict[str, Any], materials: Path) -> None:
    # behind a special token it writes a space before every text
    sides = (str(materials / "tokenizers" / "tinyllama-1.1b"), tiny_world["teacher"]["path"])
    pairs = written(sides, PAIRS, template="{prompt}<s>")
    for index, stored in enumerate(pairs.stored):
        row = stored.student
        found, _ = one(pairs, index, row.input_ids[row.prompt_length :].tolist())
        assert found.teacher.input_ids.tolist() == stored.teacher.input_ids.tolist()


def test_the_student_s_own_segmentation_stays_and_the_teacher_reads_the_text_as_usual(sides: tuple[str, str]) -> None:
    pairs = written(sides, PAIRS)
    text = "In the 4th box, Anna."
    answer = [*single_bytes(pairs, text), pairs.student.encoder.eos_id]
    found, _ = one(pairs, 0, answer)
    assert found.student.input_ids[-len(answer) :].tolist() == answer
    assert found.teacher.input_ids.tolist() == pairs.stored[0].teacher.input_ids.tolist()
    spans = spelled(pairs, found)
    assert all(student == teacher for student, teacher in spans)
    assert b"".join(student for student, _ in spans).decode() == text
    assert spans[-1] == (b"", b"")  # the two end tokens


@pytest.mark.parametrize("ended", [True, False])
def test_a_character_that_is_not_complete_is_left_out_and_counted(sides: tuple[str, str], ended: bool) -> None:
    pairs = written(sides, PAIRS)
    answer = [*single_bytes(pairs, "a 日本")[:-1], *([pairs.student.encoder.eos_id] if ended else [])]
    found, partial = one(pairs, 0, answer, ended=ended)
    assert partial == 1
    spans = spelled(pairs, found)
    assert b"".join(student for student, _ in spans).decode() == "a 日" == b"".join(t for _, t in spans).decode()
    begun = slice(-2 - ended, -1 if ended else None)
    assert found.student_spans[begun].tolist() == [-1, -1]
    assert found.student.answer_mask[begun].all()  # still scored, by what reads no teacher
    assert (found.student_spans[-1] >= 0) == ended
    assert one(pairs, 0, single_bytes(pairs, "a 日"), ended=False)[1] == 0


def test_bytes_that_are_no_text_cost_their_own_place_alone(sides: tuple[str, str]) -> None:
    pairs = written(sides, PAIRS)
    broken = single_bytes(pairs, "日")[:2]
    found, partial = one(pairs, 0, [*single_bytes(pairs, "Anna has "), *broken, *single_bytes(pairs, "two boxes, no?")])
    spans = b"".join(student for student, _ in spelled(pairs, found))
    assert partial == 0 and spans.startswith(b"Anna has") and spans.endswith(b"boxes, no?")


def test_a_special_token_that_the_student_writes_is_no_text(sides: tuple[str, str]) -> None:
    pairs = written(sides, PAIRS)
    begin = pairs.student.tokenizer.bos_token_id
    answer = [*single_bytes(pairs, "no"), begin, *single_bytes(pairs, " way"), pairs.student.encoder.eos_id]
    found, _ = one(pairs, 0, answer)
    assert b"".join(student for student, _ in spelled(pairs, found)) == b"no way"
    # spelled in the text it is text
    told, _ = one(pairs, 0, [*single_bytes(pairs, "</s> no"), pairs.student.encoder.eos_id])
    assert told.teacher.input_ids.tolist().count(pairs.teacher.encoder.eos_id) == 1


def test_an_answer_ends_before_an_id_that_no_token_has(sides: tuple[str, str]) -> None:
    pairs = written(sides, PAIRS)
    told = single_bytes(pairs, "no way")
    hole = pairs.student.encoder.eos_id - 1
    pairs.aligner.student.kinds[hole] = UNUSED
    found, _ = one(pairs, 0, [*told, hole, *told, pairs.student.encoder.eos_id])
    assert found.student.input_ids[found.student.prompt_length :].tolist() == told and found.student.truncated
    assert text_of(pairs, found).endswith("no way") and found.teacher.input_ids[-1] != pairs.teacher.encoder.eos_id


def test_of_a_conversation_that_was_cut_both_continue_the_same_turn(sides: tuple[str, str]) -> None:
    whole = written(sides, CHATS, template="turns")
    first = int(np.flatnonzero(whole.split.rows[0].answer_mask)[0])
    cut = written(sides, CHATS, template="turns", max_tokens=first + 5)
    row = cut.split.rows[0]
    assert row.prompt_length < whole.split.rows[0].prompt_length
    cut = replace(cut, teacher=whole.teacher)
    found, _ = one(cut, 0, [*single_bytes(cut, "Maybe."), cut.student.encoder.eos_id])
    assert text_of(whole, found).endswith("Tea?\n\nAssistant:\nMaybe.")


def test_text_that_is_cut_before_its_answer_begins_is_continued_from_there(sides: tuple[str, str]) -> None:
    pairs = replace(written(sides, TEXTS, max_tokens=6), teacher=written(sides, TEXTS).teacher)
    row = pairs.split.rows[0]
    assert len(row) == row.prompt_length == 6
    given = pairs.student.tokenizer.decode(row.input_ids, skip_special_tokens=True)
    assert text_of(pairs, one(pairs, 0, single_bytes(pairs, "and more"), ended=False)[0]) == given + "and more"

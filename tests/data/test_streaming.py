"""Rows that are read while a run trains: which rows in which order, where it goes on, what is refused."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from pydantic import ValidationError

from distillab.config.data import DataConfig
from distillab.config.run import RunRecipe
from distillab.config.study import StudyRecipe
from distillab.data.collation import IndexedRow
from distillab.data.encoding import Encoder
from distillab.data.splits import load_examples
from distillab.data.streaming import ExampleStream, RowStream
from distillab.data.templates import resolve_template
from distillab.errors import DataError

BUFFER = 4
ROWS = [{"prompt": f"Say {n}", "answer": "" if n in (5, 6, 7, 8) else f"{n} it is"} for n in range(21)]


def write(path, rows=ROWS):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config(path, **changes: Any) -> DataConfig:
    values = {"train": {"path": str(path)}, "streaming": {"buffer": BUFFER}, "held_out": {"first": 2}}
    return DataConfig.model_validate(values | changes)


def stream_of(path, tokenizer, *, length=60, kept=3, seed=0, **changes):
    data = config(path, **changes)
    splits = load_examples(data)
    encoder = Encoder(tokenizer, resolve_template("plain", tokenizer, splits.shape.kind), 40)
    return RowStream(
        ExampleStream(data, splits.shape, seed=seed),
        lambda examples: encoder.encode_block(examples, source="rows"),
        lambda split: ([IndexedRow(place, row) for place, row in enumerate(split.rows)], None),
        length=length,
        kept=kept,
        held_out={example.prompt_hash for example in splits.held_out},
    )


def read(stream, indexes):
    found = []
    for index in indexes:
        item = stream[index]
        assert item.index == index and item.row.key == stream.examples[index].key
        found.append((item.row.input_ids.tolist(), stream.examples[index].prompt))
    return found


@pytest.mark.parametrize("form", ["jsonl", "parquet", "pattern"])
def test_each_block_has_its_rows_in_an_order_of_its_own(tmp_path, form):
    path = write(tmp_path / "rows.jsonl")
    if form == "parquet":
        path = tmp_path / "rows.parquet"
        pyarrow.parquet.write_table(pa.Table.from_pylist(ROWS), path)
    elif form == "pattern":
        write(tmp_path / "a.jsonl", ROWS[:9])
        write(tmp_path / "b.jsonl", ROWS[9:])
        path = tmp_path / "[ab].jsonl"
    splits = load_examples(config(path))
    assert [example.prompt for example in splits.held_out] == ["Say 0", "Say 1"]
    assert [example.prompt for example in splits.train] == [f"Say {n}" for n in range(2, 2 + BUFFER)]
    stream = ExampleStream(config(path), splits.shape, seed=3)
    blocks = list(islice(stream.blocks(), 10))
    assert [(block.passes, block.number) for block in blocks] == [(n // 5, n % 5) for n in range(10)]
    places = [[int(example.prompt[4:]) for example in block.examples] for block in blocks]
    assert [sorted(block) for block in places] == [[*range(n, min(n + BUFFER, 21))] for n in range(2, 21, BUFFER)] * 2
    assert places[:5] != places[5:] and any(block != sorted(block) for block in places)
    assert list(islice(stream.blocks(1, 2), 2)) == blocks[7:9]
    other = ExampleStream(config(path), splits.shape, seed=4)
    assert [block.examples for block in islice(other.blocks(), 5)] != [block.examples for block in blocks[:5]]


def test_rows_go_on_where_a_state_was_taken_and_two_readers_see_one_stream(tmp_path, chat_tokenizer):
    path = write(tmp_path / "rows.jsonl")
    whole = read(stream_of(path, chat_tokenizer), range(40))
    assert {prompt for _, prompt in whole[:15]} == {f"Say {n}" for n in range(2, 21) if n not in (5, 6, 7, 8)}
    for number in range(2):
        assert read(stream_of(path, chat_tokenizer), range(number, 40, 2)) == whole[number::2]
    for stop in range(0, 33, 4):
        first = stream_of(path, chat_tokenizer)
        read(first, range(stop + 2))  # a loader reads ahead
        state = json.loads(json.dumps(first.state(stop)))
        second = stream_of(path, chat_tokenizer)
        read(second, range(2))  # what needs a batch before training
        second.restore(state)
        assert read(second, range(stop, 40)) == whole[stop:]
        read(first, range(stop + 2, 40))
        assert (second.counts, second.note) == (first.counts, first.note)
    assert (first.counts.rows, first.counts.dropped_empty_answer) == (19 * 2 + 4 * 4, 4 * 3)
    assert first.counts.kept == first.counts.rows - first.counts.dropped_empty_answer


def test_few_rows_stay_in_memory(tmp_path, chat_tokenizer):
    stream = stream_of(write(tmp_path / "rows.jsonl"), chat_tokenizer, kept=3)
    for index in range(50):
        assert stream[max(0, index - 3)].index == max(0, index - 3)
        stream[index]
        assert len(stream.examples) <= 3 + 2 * BUFFER
    with pytest.raises(KeyError):
        stream[20]


def test_rows_of_a_held_out_prompt_are_counted(tmp_path, chat_tokenizer):
    stream = stream_of(write(tmp_path / "rows.jsonl", [*ROWS, ROWS[0], ROWS[1]]), chat_tokenizer)
    read(stream, range(17))
    assert "2 rows with a held-out prompt" in stream.note


def test_later_rows_of_another_shape_are_refused(tmp_path, chat_tokenizer):
    rows = [*ROWS, {**ROWS[0], "system": "Be brief."}]
    with pytest.raises(DataError, match=r"Later rows of a stream have other columns(.|\n)*with these: messages"):
        read(stream_of(write(tmp_path / "rows.jsonl", rows), chat_tokenizer), range(40))


def test_rows_that_cannot_be_read_are_an_error_or_counted(tmp_path, chat_tokenizer):
    path = write(tmp_path / "rows.jsonl", [*ROWS, {"prompt": "x", "answer": None}])
    with path.open("a") as file:
        file.write("{broken\n")
    with pytest.raises(DataError, match=r"1 of 4 rows cannot be read"):
        read(stream_of(path, chat_tokenizer), range(30))
    stream = stream_of(path, chat_tokenizer, on_bad_row="skip")
    read(stream, range(16))
    assert stream.counts.skipped == 1  # the broken line stands behind the last row
    write(path, ROWS[:-1])
    with pytest.raises(DataError, match="The rows changed while they were read"):
        read(stream, range(16, 40))


def test_without_streaming_the_first_rows_can_be_held_out_too(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"prompt": "a", "answer": ["1", "2"]}, *ROWS])
    splits = load_examples(config(path, streaming=False))
    assert [example.answer for example in splits.held_out] == ["1", "2", "0 it is"]
    assert len(splits.train) == 20
    assert splits.sources == (f"{path}, the rest", f"{path}, first 2 rows")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"held_out": {"fraction": 0.1}}}, "other rows are not known before"),
        ({"data": {"train": [{"path": "a.jsonl"}]}}, r"train is a list|one source"),
        ({"data": {"held_out": {"path": "b.jsonl"}, "train": [{"path": "a.jsonl"}]}}, "streaming reads one source"),
        ({"data": {"teacher_column": "by"}}, "one teacher"),
        ({"data": {"held_out": {"first": 1, "limit": 1}}}, "remove limit"),
        ({"method": "seqkd"}, "answers: teacher"),
        ({"teacher": {"cache": "c"}, "method": "logits"}, r"teacher\.cache"),
        ({"training": {"steps": 3, "group_by_length": True}}, "group_by_length"),
        ({"training": {}}, r"give training\.steps"),
    ],
    ids=str,
)
def test_what_needs_all_rows_is_refused(changes, message):
    data = {"train": {"path": "a.jsonl"}, "streaming": True, "held_out": {"first": 2}} | changes.get("data", {})
    values = {"student": {"path": "s"}, "teacher": {"path": "t"}, "training": {"steps": 3}} | changes | {"data": data}
    with pytest.raises(ValidationError, match=message):
        RunRecipe(**values)


def test_a_study_is_refused():
    data = {"train": {"path": "a.jsonl"}, "streaming": True, "held_out": {"first": 2}}
    with pytest.raises(ValidationError, match="for one run"):
        StudyRecipe(student={"path": "s"}, teacher={"path": "t"}, data=data)

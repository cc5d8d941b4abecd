"""Held-out rows by file, by fraction and by column."""

from __future__ import annotations

import hashlib
import json
import random

import pytest

from distillab.config.data import DataConfig
from distillab.data.splits import load_examples
from distillab.errors import DataError


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def numbered(count):
    return [
        {"question": f"q{n}", "answer": str(n), "id": n, "part": "dev" if n % 5 == 0 else "main"} for n in range(count)
    ]


def load(path, held_out, **settings):
    return load_examples(DataConfig.model_validate({"train": {"path": path}, "held_out": held_out, **settings}))


def prompts(examples):
    return [example.prompt for example in examples]


def test_a_fraction_is_exact_seeded_and_does_not_depend_on_order(tmp_path):
    rows = numbered(200)
    path = write(tmp_path / "a.jsonl", rows)
    splits = load(path, {"fraction": 0.1})
    assert (len(splits.train), len(splits.held_out), splits.overlap) == (180, 20, 0)
    assert sorted(prompts(splits.train) + prompts(splits.held_out)) == sorted(row["question"] for row in rows)
    random.Random(1).shuffle(rows)
    again = load(write(tmp_path / "b.jsonl", rows), {"fraction": 0.1})
    assert set(prompts(again.held_out)) == set(prompts(splits.held_out))
    assert prompts(again.train) == [row["question"] for row in rows if row["question"] not in prompts(again.held_out)]
    other = load(path, {"fraction": 0.1}, seed=1)
    assert set(prompts(other.held_out)) != set(prompts(splits.held_out))


def test_equal_rows_stay_on_one_side(tmp_path):
    rows = [{"question": f"q{n % 30}", "answer": "a", "id": n} for n in range(120)]
    splits = load(write(tmp_path / "a.jsonl", rows), {"fraction": 0.25})
    assert not set(prompts(splits.train)) & set(prompts(splits.held_out))
    assert splits.overlap == 0
    assert len(splits.held_out) == 28  # seven questions of four rows; an eighth would pass 30


def test_a_limit_leaves_the_rest_in_the_training_part(tmp_path):
    splits = load(write(tmp_path / "a.jsonl", numbered(100)), {"fraction": 0.5, "limit": 7})
    assert (len(splits.train), len(splits.held_out)) == (93, 7)


def test_a_file_of_its_own_and_the_overlap(tmp_path):
    train = write(tmp_path / "a.jsonl", numbered(10))
    held = write(tmp_path / "b.jsonl", [{"prompt": "q3", "completion": "3"}, {"prompt": "q3", "completion": "4"}])
    splits = load(train, {"path": held})
    assert (len(splits.train), len(splits.held_out), splits.overlap) == (10, 2, 1)
    assert splits.sources == (train, held)


def test_a_column_names_the_part(tmp_path):
    path = write(tmp_path / "a.jsonl", numbered(20))
    splits = load(path, {"column": "part", "value": "dev"})
    assert prompts(splits.held_out) == ["q0", "q5", "q10", "q15"]
    assert len(splits.train) == 16
    with pytest.raises(DataError, match=r'No row has part = "test"(.|\n)*values: dev, main'):
        load(path, {"column": "part", "value": "test"})
    with pytest.raises(DataError, match='20 of 20 rows have no column "prt"'):
        load(path, {"column": "prt", "value": "dev"})
    with pytest.raises(DataError, match="One part of the data has no rows"):
        load(write(tmp_path / "b.jsonl", numbered(1)), {"column": "part", "value": "dev"})


def test_parts_of_different_kinds_are_refused(tmp_path):
    train = write(tmp_path / "a.jsonl", numbered(3))
    held = write(tmp_path / "b.jsonl", [{"text": "hello"}])
    with pytest.raises(DataError, match=r"different kinds(.|\n)*question/answer(.|\n)*text"):
        load(train, {"path": held})


def test_one_row_cannot_be_split(tmp_path):
    with pytest.raises(DataError, match="two different prompts"):
        load(write(tmp_path / "a.jsonl", numbered(1) * 5), {"fraction": 0.5})


def test_two_rows_can(tmp_path):
    splits = load(write(tmp_path / "a.jsonl", numbered(2)), {"fraction": 0.99})
    assert (len(splits.train), len(splits.held_out)) == (1, 1)


def test_all_answers_to_one_prompt_are_on_one_side(tmp_path):
    rows = [{"question": f"q{n % 30}", "answer": f"a{n}", "id": n} for n in range(120)]
    splits = load(write(tmp_path / "a.jsonl", rows), {"fraction": 0.25})
    assert not set(prompts(splits.train)) & set(prompts(splits.held_out))
    assert (len(splits.held_out), splits.prompts_in_both) == (28, 0)
    assert splits.notes == ()


def test_prompts_with_one_answer_are_split_as_by_prompt_and_answer(tmp_path):
    """The rows of the lowest hashes of seed and content, which is how earlier versions chose them."""
    path = write(tmp_path / "a.jsonl", numbered(40))
    splits = load(path, {"fraction": 0.1}, seed=3)
    every = [*splits.train, *splits.held_out]
    lowest = sorted(every, key=lambda one: hashlib.sha256(f"3 {one.content}".encode()).digest())[:4]
    assert set(prompts(splits.held_out)) == set(prompts(lowest))


def test_prompts_on_both_sides_of_a_column_are_said(tmp_path):
    rows = [{"question": f"q{n % 3}", "answer": str(n), "part": "dev" if n < 3 else "main"} for n in range(9)]
    splits = load(write(tmp_path / "a.jsonl", rows), {"column": "part", "value": "dev"})
    assert (splits.overlap, splits.prompts_in_both) == (0, 3)
    assert splits.notes == ("3 held-out prompts are in the training part too",)


def test_bad_rows_are_left_out_only_where_that_is_written(tmp_path):
    good = [json.dumps(row) for row in numbered(10)]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join([*good[:4], "{broken", '{"question": "q", "answer": null}', *good[4:]]) + "\n")
    with pytest.raises(DataError, match=r"1 line of the file(.|\n)*line 5(.|\n)*data\.on_bad_row: skip"):
        load(str(path), {"fraction": 0.2})
    splits = load(str(path), {"fraction": 0.2}, on_bad_row="skip")
    assert len(splits.train) + len(splits.held_out) == 10
    assert [line.partition(":")[2][:20] for line in splits.skipped] == [" not JSON (Expecting", '6: "answer" is null']
    assert splits.notes[0].startswith("2 rows cannot be read and are skipped (data.on_bad_row: skip): ")
    path.write_text('{"question": "q", "answer": null}\n')
    with pytest.raises(DataError, match="1 of 1 rows cannot be read"):
        load(str(path), {"fraction": 0.2}, on_bad_row="skip")

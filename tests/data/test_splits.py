"""Held-out rows by file, by fraction and by column."""

from __future__ import annotations

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
    with pytest.raises(DataError, match="two different rows"):
        load(write(tmp_path / "a.jsonl", numbered(1) * 5), {"fraction": 0.5})


def test_two_rows_can(tmp_path):
    splits = load(write(tmp_path / "a.jsonl", numbered(2)), {"fraction": 0.99})
    assert (len(splits.train), len(splits.held_out)) == (1, 1)

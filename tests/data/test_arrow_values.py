"""Values of Parquet files and saved data sets: nothing is invented, and every type has its rule."""

from __future__ import annotations

import datetime
import decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distillab.config.data import SourceConfig
from distillab.data.row_examples import to_examples
from distillab.data.sources import read_rows
from distillab.errors import DataError


def answers(path):
    rows = read_rows(SourceConfig(path=str(path)))
    return [example.answer for example in to_examples(rows, columns=None, prompt_share=0.25)]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1.5, float("nan")]), ["1.5", ""]),
        (pa.array([0.1, 1.1], pa.float32()), ["0.1", "1.1"]),
        (pa.array([0.1, 16777216.0], pa.float32()), ["0.1", "16777216.0"]),
        (pa.array([0.1, 2.0], pa.float16()), ["0.1", "2.0"]),
        (pa.array([12, 7]), ["12", "7"]),
        (pa.array([0.1, 1e22]), ["0.1", "1e+22"]),
        (pa.array([decimal.Decimal("1.50"), decimal.Decimal("-0.07")]), ["1.50", "-0.07"]),
        (pa.array([datetime.date(2024, 1, 31), datetime.date(1999, 12, 1)]), ["2024-01-31", "1999-12-01"]),
        (pa.array([datetime.datetime(2024, 1, 31, 7, 5)] * 2), ["2024-01-31T07:05:00"] * 2),
        (pa.array(["x", "y"]).dictionary_encode(), ["x", "y"]),
        (pa.array([[0.1], [0.2, 0.3]], pa.list_(pa.float32())), ["0.1", "0.2", "0.3"]),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)
def test_answers_of_a_column(tmp_path, column, expected):
    pq.write_table(pa.table({"question": ["p", "q"], "answer": column}), tmp_path / "rows.parquet")
    assert answers(tmp_path / "rows.parquet") == expected


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([b"a", b"b"]), "is a bytes, not text"),
        (pa.array([True, False]), "is a bool, not text"),
        (pa.array([float("inf"), 1.0]), "is infinite"),
        (pa.array([datetime.timedelta(1)] * 2), "is a timedelta, not text"),
        (pa.array([1.0, None]), "is null"),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)
def test_what_has_no_one_text_is_refused(tmp_path, column, message):
    pq.write_table(pa.table({"question": ["p", "q"], "answer": column}), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=message):
        answers(tmp_path / "rows.parquet")


def test_a_class_label_is_its_name(tmp_path):
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"question": Value("string"), "answer": ClassLabel(names=["bad", "good"])})
    made = Dataset.from_dict({"question": ["p", "q", "r"], "answer": [1, 0, 1]}, features=features)
    made.save_to_disk(str(tmp_path / "saved"))
    made.to_parquet(str(tmp_path / "rows.parquet"))
    made.select([2, 1]).save_to_disk(str(tmp_path / "chosen"))
    assert answers(tmp_path / "saved") == answers(tmp_path / "rows.parquet") == ["good", "bad", "good"]
    assert answers(tmp_path / "chosen") == ["good", "bad"]
    none = Dataset.from_dict({"question": ["p", "q"], "answer": [-1, 1]}, features=features)
    none.to_parquet(str(tmp_path / "none.parquet"))
    with pytest.raises(DataError, match=r'row 1: "answer" is null'):
        answers(tmp_path / "none.parquet")

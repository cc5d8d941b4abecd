"""Tables of examples: the same as examples made one by one, found again in the store, never trusted when damaged."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from tests.processes import start_code

from distillab.config.data import ColumnsConfig, SourceConfig
from distillab.data import row_table
from distillab.data.example_table import content_sha256
from distillab.data.row_examples import examples_of
from distillab.data.row_table import Reading, read_table
from distillab.data.sources import read_rows
from distillab.errors import DataError

ANSWERS = [["one", "two"], "one", ["one", "two"], "", ["two"]]


@pytest.fixture
def store(tmp_path, monkeypatch) -> Path:
    """An empty store that keeps the smallest sources too, in record batches of three examples, and gives pages back."""
    monkeypatch.setenv("DISTILLAB_CACHE", str(tmp_path / "store"))
    monkeypatch.setattr(row_table, "_SMALLEST_STORED_BYTES", 0)
    monkeypatch.setattr("distillab.data.row_table.BATCH_ROWS", 3)
    monkeypatch.setattr("distillab.data.example_table.BATCH_ROWS", 3)
    monkeypatch.setattr("distillab.data.example_table._KEPT_BYTES", 100)
    return tmp_path / "store"


def pairs(count):
    return [{"prompt": f"p{n % 4}", "answer": ANSWERS[n % 5], "part": f"v{n % 3}", "hint": n} for n in range(count)]


def chats(count):
    asked = {"role": "user", "content": "Ü? \U0001f642"}
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]}
    result = {"role": "tool", "content": "3", "name": "f"}
    told = {"role": "assistant", "content": "three", "weight": 1}
    return [
        {"messages": [asked, *([call, result] if n % 2 else []), told], "tools": [{"name": "f"}] if n % 2 else None}
        for n in range(count)
    ]


def texts(count):
    return [{"text": f"number {n} of some words"} for n in range(count)]


def source(tmp_path, rows, **settings):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return SourceConfig(path=str(path), **settings)


def parts(example):
    return (*(getattr(example, name) for name in example.__dataclass_fields__), example.content, example.prompt_hash)


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("rows", [[*pairs(9), *pairs(9)[::-1]], chats(8), texts(3)], ids=["pairs", "chats", "texts"])
def test_a_table_holds_the_examples_that_are_made_one_by_one(tmp_path, store, monkeypatch, rows, stored):
    if not stored:
        monkeypatch.setattr(row_table, "_SMALLEST_STORED_BYTES", 1 << 20)
    config = source(tmp_path, rows)
    expected = examples_of(read_rows(config), columns=None, prompt_share=0.4, beside=("hint",))
    read = read_table(config, Reading(0.4, beside=("hint",)))
    assert store.exists() == stored
    table, made = read.examples, expected.examples
    assert [parts(example) for example in table] == [parts(example) for example in made]
    assert [example.beside for example in table] == [example.beside for example in made]
    assert (read.shape, read.skipped) == (expected.shape, ())
    assert [f"{number:016x}" for number in table.contents.tolist()] == [example.content for example in made]
    assert [f"{number:016x}" for number in table.prompt_hashes.tolist()] == [example.prompt_hash for example in made]
    assert content_sha256(table) == content_sha256(made)
    if expected.shape.kind == "messages":
        assert list(table.with_last_answer_alone()) == [example.with_last_answer_alone() for example in made]


def test_places_slices_and_selections(tmp_path, store):
    table = read_table(source(tmp_path, pairs(17)), Reading(0.5)).examples
    made, places = list(table), [5, 1, 1, 20, 0]
    assert len(made) == len(table) > 20
    assert [table[n] for n in range(-len(table), len(table))] == [*made, *made]
    assert list(table[4:15:2]) == made[4:15:2]
    assert list(table.take(places)) == [made[n] for n in places]
    assert list(table.take(np.arange(len(table)) % 2 == 0)[1:]) == made[::2][1:]
    assert list(table.take([])) == []
    with pytest.raises(IndexError):
        table[len(table)]


def test_a_fingerprint_names_rows_order_and_settings_but_no_path(tmp_path, store):
    one = read_table(source(tmp_path, chats(6)), Reading(0.5)).examples
    (tmp_path / "other").mkdir()
    same = read_table(source(tmp_path / "other", chats(6)), Reading(0.5)).examples
    assert one.rows_fingerprint == same.rows_fingerprint
    others = [
        one[1:],
        one.take([1, 0, 2, 3, 4, 5]),
        one.with_last_answer_alone(),
        read_table(source(tmp_path, chats(6)[::-1]), Reading(0.5)).examples,
        read_table(source(tmp_path, chats(6)), Reading(0.5, beside=("tools",))).examples,
        read_table(source(tmp_path, chats(6)), Reading(0.5, columns=ColumnsConfig(messages="messages"))).examples,
    ]
    assert len({table.rows_fingerprint for table in [one, *others]}) == 7


def test_the_store_is_read_and_the_source_is_not(tmp_path, store, monkeypatch):
    config = source(tmp_path, [*pairs(9), {"prompt": "p"}])
    first = read_table(config, Reading(0.5, on_bad_row="skip"))
    monkeypatch.setattr("distillab.data.row_table._build", None)
    again = read_table(config, Reading(0.5, on_bad_row="skip"))
    assert list(again.examples) == list(first.examples)
    assert (again.shape, again.skipped) == (first.shape, first.skipped)
    assert len(again.skipped) == 1


def test_other_rows_under_the_same_name_size_and_time_are_read(tmp_path, store):
    config = source(tmp_path, texts(4))
    before = Path(config.path).stat()
    assert "number 3" in read_table(config, Reading(0.5)).examples[3].prompt
    Path(config.path).write_text(Path(config.path).read_text().replace("number 3", "number 4"))
    os.utime(config.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "number 4" in read_table(config, Reading(0.5)).examples[3].prompt


@pytest.mark.parametrize("name", ["texts.arrow", "index.npy", "facts.json"])
def test_a_damaged_store_is_made_again_and_says_so(tmp_path, store, capsys, name):
    config = source(tmp_path, pairs(9))
    first = list(read_table(config, Reading(0.5)).examples)
    (file,) = store.glob(f"rows/*/{name}")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert list(read_table(config, Reading(0.5)).examples) == first
    assert "damaged" in capsys.readouterr().err
    list(read_table(config, Reading(0.5)).examples)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("late", [{"system": "Be brief."}, {"answer": [{"role": "assistant", "content": "a"}]}])
def test_a_late_row_changes_how_all_rows_are_read(tmp_path, store, late):
    rows = [*({"prompt": f"p{n}", "answer": "a"} for n in range(8)), {"prompt": "p", "answer": "a", **late}]
    config = source(tmp_path, rows)
    expected = examples_of(read_rows(config), columns=None, prompt_share=0.5)
    read = read_table(config, Reading(0.5))
    assert read.shape == expected.shape
    assert read.shape.kind == "messages"
    assert list(read.examples) == expected.examples


def test_columns_that_only_later_rows_have(tmp_path, store):
    rows = [*({"prompt": f"p{n}"} for n in range(8)), {"prompt": "p", "answer": "a"}]
    config = source(tmp_path, rows)
    read = read_table(config, Reading(0.5, on_bad_row="skip"))
    assert ([example.prompt for example in read.examples], len(read.skipped)) == (["p"], 8)
    with pytest.raises(DataError, match="8 of 9 rows cannot be read as pair"):
        read_table(config, Reading(0.5))
    assert not list(store.glob("rows/*/facts.json"))[1:]


@pytest.mark.slow
def test_two_processes_that_start_together_keep_one_folder(tmp_path, store):
    config = source(tmp_path, pairs(2000))
    code = (
        "from distillab.config.data import SourceConfig\n"
        "from distillab.data import row_table\n"
        "row_table._SMALLEST_STORED_BYTES = 0\n"
        f"read = row_table.read_table(SourceConfig(path={config.path!r}), row_table.Reading(0.5))\n"
        "print(len(read.examples), read.examples.rows_fingerprint, list(read.examples)[-1].key)\n"
    )
    started = [start_code(code) for _ in range(2)]
    one, other = (process.communicate()[0] for process in started)
    assert one == other != ""
    assert len(list(store.glob("rows/*/facts.json"))) == 1
    assert not list(store.glob("rows/*.tmp")) + list(store.glob("rows/.*.tmp"))

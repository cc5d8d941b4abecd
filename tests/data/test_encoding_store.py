"""Rows that were encoded or aligned once are found again, and only those that would be the same."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from distillab.config.data import DataConfig, SourceConfig
from distillab.data import aligning, encoding
from distillab.data.aligning import pair_rows, span_aligner
from distillab.data.encoded_rows import answer_id_counts, row_keys, row_lengths
from distillab.data.encoding import Encoder
from distillab.data.reading import Reader
from distillab.data.splits import load_examples
from distillab.data.store import store_root
from distillab.data.templates import resolve_template
from distillab.pairing.loading import load_tokenizer


@pytest.fixture(scope="module")
def examples(materials):
    train = load_examples(DataConfig(train=SourceConfig(path=str(materials / "text/gsm8k/train.jsonl")))).train
    return train[:80]


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILLAB_CACHE", str(tmp_path))
    monkeypatch.setattr(encoding, "_STORED_FROM", 70)


load = cache(load_tokenizer)


def reader(materials, name: str, *, template: str = "plain", most: int = 120, load=load) -> Reader:
    loaded = load(str(materials / "tokenizers" / name))
    if loaded.tokenizer.eos_token is None:
        loaded.tokenizer.eos_token = "<|endoftext|>"
    return Reader(loaded, Encoder(loaded.tokenizer, resolve_template(template, loaded.tokenizer, "pair"), most))


def facts(rows):
    return [
        (row.key, row.input_ids.tolist(), row.answer_mask.tolist(), row.prompt_length, row.truncated) for row in rows
    ]


def never(*_):
    raise AssertionError("encoded again")


def test_a_second_start_encodes_nothing(materials, examples, monkeypatch):
    first = reader(materials, "gpt2").encoder.encode_all(examples, source="first")
    monkeypatch.setattr(Encoder, "_encode_into", never)
    again = reader(materials, "gpt2").encoder.encode_all(examples, source="again")
    assert facts(again.rows) == facts(first.rows)
    assert [example.key for example in again.examples] == row_keys(again.rows)
    assert again.counts == first.counts.model_copy(update={"source": "again"})
    assert first.counts.truncated > 10


def test_stored_rows_are_those_of_a_list(materials, examples):
    encoder = reader(materials, "tok105", most=200).encoder  # drops rows, loses text
    stored, made = (encoder.encode_all(one, source="s") for one in (examples, list(examples)))
    assert stored.counts == made.counts
    assert stored.counts.dropped_no_room > 10
    assert facts(stored.rows) == facts(made.rows)
    assert [example.key for example in stored.examples] == [example.key for example in made.examples]
    counts = answer_id_counts(stored.rows, vocabulary=105)
    every = np.concatenate([row.input_ids[row.answer_mask] for row in made.rows])
    assert counts.tolist() == np.bincount(every, minlength=105).tolist()
    assert counts.tolist() == answer_id_counts(list(made.rows), vocabulary=105).tolist()
    assert row_lengths(stored.rows).tolist() == [len(row) for row in made.rows]


def test_other_rows_lengths_templates_and_tokenizers_are_encoded_apart(materials, examples):
    usual = reader(materials, "gpt2")
    different = reader(materials, "gpt2", load=load_tokenizer)
    different.loaded.tokenizer.add_special_tokens({"additional_special_tokens": ["Natalia"]})
    others = [
        (usual, examples),
        (usual, examples[:79]),
        (usual, examples.take(np.arange(80)[::-1])),
        (reader(materials, "gpt2", most=119), examples),
        (reader(materials, "gpt2", template="turns"), examples),
        (reader(materials, "tok512"), examples),
        (Reader(different.loaded, Encoder(different.tokenizer, usual.encoder.template, 120)), examples),
    ]
    for number, (one, rows) in enumerate(others, start=1):
        one.encoder.encode_all(rows, source="s")
        assert len([folder for folder in (store_root() / "tokens").iterdir() if folder.is_dir()]) == number


def test_damaged_rows_are_encoded_again(materials, examples, capsys):
    first = reader(materials, "gpt2").encoder.encode_all(examples, source="s")
    kept = facts(first.rows)
    [file] = (store_root() / "tokens").glob("*/input_ids")
    content = bytearray(file.read_bytes())
    content[1000] ^= 1
    file.write_bytes(content)
    assert facts(reader(materials, "gpt2").encoder.encode_all(examples, source="s").rows) == kept
    assert "damaged" in capsys.readouterr().err


def test_spans_are_found_again(materials, examples, monkeypatch):
    def paired(rows):
        both = reader(materials, "gpt2"), reader(materials, "tok512", most=150)
        splits = [one.encoder.encode_all(rows, source="s") for one in both]
        return pair_rows(splits[0].rows, splits[1].rows, aligner=span_aligner(*both), source="s")

    def spans(rows):
        return [(row.index, row.student.key, row.teacher.key) for row in rows], [
            numbers.tolist() for row in rows for numbers in (row.student_spans, row.teacher_spans)
        ]

    made, counts = paired(list(examples))
    first, first_counts = paired(examples)
    monkeypatch.setattr(aligning, "_align_into", never)
    again, again_counts = paired(examples)
    assert spans(made) == spans(first) == spans(again)
    assert counts == first_counts == again_counts
    assert counts.teacher_lacks > 0
    assert len(again) == counts.rows - counts.teacher_lacks
    assert again.lengths.tolist() == [len(row.student) for row in made]
    assert again.indexes.tolist() == [row.index for row in made]


def test_few_rows_are_not_stored(materials, examples):
    reader(materials, "gpt2").encoder.encode_all(examples[: encoding._STORED_FROM - 1], source="s")
    assert not store_root().joinpath("tokens").exists()

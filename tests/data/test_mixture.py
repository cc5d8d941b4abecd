"""Several sources: their shares, which rows are drawn, keys and origins."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import replace

import pytest
from pydantic import ValidationError
from tokenizers.processors import TemplateProcessing

from distillab.config.data import DataConfig
from distillab.data.encoding import Encoder
from distillab.data.splits import load_examples
from distillab.data.templates import resolve_template, resolve_templates
from distillab.errors import DataError


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def numbered(name, count):
    return [{"prompt": f"{name}{n}", "answer": str(n)} for n in range(count)]


def load(*sources, held_out=None, **settings):
    values = {"train": list(sources), "held_out": held_out or {"fraction": 0.1}, **settings}
    return load_examples(DataConfig.model_validate(values))


@pytest.fixture
def held_out(tmp_path):
    return {"path": write(tmp_path / "held_out.jsonl", numbered("h", 5))}


def test_without_weights_every_row_is_used_in_the_order_of_the_sources(tmp_path, held_out):
    a, b = write(tmp_path / "a.jsonl", numbered("a", 4)), write(tmp_path / "b.jsonl", numbered("b", 3))
    splits = load({"path": b}, {"path": a, "limit": 2}, held_out=held_out)
    assert [example.prompt for example in splits.train] == ["b0", "b1", "b2", "a0", "a1"]
    assert [example.origin for example in splits.train] == [f"{b}:1", f"{b}:2", f"{b}:3", f"{a}:1", f"{a}:2"]
    assert splits.drawn == (f"3 of 3 rows of {b}", f"2 of 2 rows of {a}")
    assert splits.notes[0].startswith("sources of the training rows: 3 of 3 rows")


def test_weights_are_shares_drawn_by_seed_and_content(tmp_path, held_out):
    a, b = write(tmp_path / "a.jsonl", numbered("a", 90)), write(tmp_path / "b.jsonl", numbered("b", 10))
    sources = {"path": a, "weight": 3}, {"path": b, "weight": 1}
    splits = load(*sources, held_out=held_out, seed=5)
    prompts = [example.prompt for example in splits.train]
    lowest = sorted(
        load({"path": a}, held_out=held_out).train,
        key=lambda example: hashlib.sha256(f"5 {example.content}".encode()).digest(),
    )[:30]
    numbers = sorted(int(example.answer) for example in lowest)
    assert prompts == [*(f"a{n}" for n in numbers), *(f"b{n}" for n in range(10))]
    assert splits.drawn == (f"30 of 90 rows of {a}", f"10 of 10 rows of {b}")
    write(tmp_path / "a.jsonl", numbered("a", 90)[::-1])
    assert {example.prompt for example in load(*sources, held_out=held_out, seed=5).train} == set(prompts)
    assert {example.prompt for example in load(*sources, held_out=held_out, seed=6).train} != set(prompts)


def test_equal_rows_of_two_sources_have_different_keys_and_stay_on_one_side(tmp_path):
    a, b = write(tmp_path / "a.jsonl", numbered("x", 9)), write(tmp_path / "b.jsonl", numbered("x", 9))
    splits = load({"path": a}, {"path": b}, held_out={"fraction": 0.3})
    keys = [example.key for example in (*splits.train, *splits.held_out)]
    assert len(set(keys)) == 18
    assert {key.partition("-")[2] for key in keys} == {"0", "1"}
    assert (splits.overlap, splits.prompts_in_both) == (0, 0)
    assert len(splits.held_out) % 2 == 0


def test_what_cannot_be_mixed(tmp_path):
    a, b = write(tmp_path / "a.jsonl", numbered("a", 9)), write(tmp_path / "b.jsonl", [{"text": "one two three"}] * 2)
    with pytest.raises(DataError, match=r"different kinds(.|\n)*pair(.|\n)*text"):
        load({"path": a}, {"path": b})
    with pytest.raises(ValidationError, match="every source a weight, or none"):
        load({"path": a, "weight": 1}, {"path": b})
    with pytest.raises(ValidationError, match="at least one source"):
        load()


def test_one_source_in_a_list_is_that_source(tmp_path):
    a = write(tmp_path / "a.jsonl", numbered("a", 20))
    one = load_examples(DataConfig.model_validate({"train": {"path": a}}))
    assert load({"path": a}).train.rows_fingerprint == one.train.rows_fingerprint


def test_a_column_names_the_held_out_rows_of_every_source(tmp_path):
    parts = [{**row, "part": "dev" if n == 0 else "main"} for n, row in enumerate(numbered("a", 4))]
    a, b = write(tmp_path / "a.jsonl", parts), write(tmp_path / "b.jsonl", [*parts[1:], {**parts[0], "prompt": "b"}])
    splits = load({"path": a}, {"path": b}, held_out={"column": "part", "value": "dev"})
    assert [example.prompt for example in splits.held_out] == ["a0", "b"]
    assert len(splits.train) == 6
    with pytest.raises(DataError, match='No row has part = "dev"'):
        load({"path": a}, {"path": write(tmp_path / "c.jsonl", parts[1:])}, held_out={"column": "part", "value": "dev"})


def test_each_source_is_read_by_its_own_template(tmp_path, chat_tokenizer, held_out):
    chat_tokenizer = copy.deepcopy(chat_tokenizer)
    chat_tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|end|> $A", special_tokens=[("<|end|>", chat_tokenizer.convert_tokens_to_ids("<|end|>"))]
    )
    a, b, c = (write(tmp_path / f"{name}.jsonl", numbered(name, 6)) for name in "abc")
    own = "Q: {prompt}\nA: "
    config = DataConfig.model_validate(
        {
            "train": [{"path": a, "template": own}, {"path": b, "template": "chat"}, {"path": c}],
            "template": "plain",
            "held_out": held_out,
        }
    )
    splits = load_examples(config)
    form = resolve_templates(config.templates, chat_tokenizer, "pair")
    split = Encoder(chat_tokenizer, form, 200).encode_all(splits.train, source="rows")
    # the tokenizer's begin token stands before texts, and a chat template is the whole text
    begin = chat_tokenizer.convert_tokens_to_ids("<|end|>")
    assert [split.rows[place].input_ids[0] == begin for place in (0, 6, 12)] == [True, False, True]
    for part, name in ((slice(6), own), (slice(6, 12), "chat"), (slice(12, 18), "plain")):
        alone = Encoder(chat_tokenizer, resolve_template(name, chat_tokenizer, "pair"), 200)
        expected = alone.encode_all([replace(one, template="") for one in splits.train[part]], source="rows")
        assert [row.input_ids.tolist() for row in split.rows[part]] == [row.input_ids.tolist() for row in expected.rows]
        assert [row.answer_mask.tolist() for row in split.rows[part]] == [
            row.answer_mask.tolist() for row in expected.rows
        ]
    assert {example.template for example in splits.held_out} == {""}
    assert splits.train[0].with_prompt("x").template == splits.train[0].with_answer("x").template == own
    other = config.model_copy(
        update={"train": tuple(one.model_copy(update={"template": None}) for one in config.train)}
    )
    assert load_examples(other).train.rows_fingerprint != splits.train.rows_fingerprint


def test_templates_that_do_nothing_or_do_not_exist_are_refused(tmp_path):
    a = write(tmp_path / "a.jsonl", numbered("a", 9))
    with pytest.raises(ValidationError, match=r"data\.template has no effect"):
        load({"path": a, "template": "alpaca"}, template="plain")
    with pytest.raises(ValidationError, match='no such template: "alpacca"'):
        load({"path": a, "template": "alpacca"})

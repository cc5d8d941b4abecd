"""Good batches are left in peace: no error, no warning, and only the notes that are expected."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from bench.doctor.rows import CHATML
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.doctor.batch_borders import FAULTS, GOOD
from tests.doctor.batch_good import Good
from tests.doctor.batch_samples import TOKENIZERS, World, inverted, pairs_of, tokenizer_of

from distillab.data.collation import TokenDataset
from distillab.data.examples import Example
from distillab.data.reading import load_reader
from distillab.demo.failures import PromptPositions
from distillab.doctor.batch.audit import audit_batch


def said(checks):
    return [(finding.severity, finding.id) for one in checks for finding in one.findings]


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.name)
def test_a_good_batch_is_left_in_peace(case: Good, name: str, world_of, read_once):
    world = world_of(name)
    findings = said(audit_batch(case.make(world), world.tokenizer, **case.said))
    assert set(findings) <= {("note", id) for id in case.notes}


def test_chat_template_with_tokens_of_its_own(materials: Path):
    """The begin token is the template's business, and the end of a turn is not EOS."""
    tokenizer = copy.deepcopy(tokenizer_of(materials, "gpt2"))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    world = World(tokenizer, pairs_of(materials))
    assert len(world.text("<|im_end|>")) == 1
    assert said(audit_batch(world.batch(world.chatml(turns=2)), tokenizer, learns="answers")) == []


@pytest.fixture(scope="module")
def ours(materials: Path):
    """A reader of this package, and its rows."""
    path = str(materials / "tokenizers" / "tinyllama-1.1b")
    reader = load_reader(path, revision=None, template="alpaca", kind="pair", max_tokens=512)
    examples = [Example(str(n), f"row {n}", "pair", *pair) for n, pair in enumerate(pairs_of(materials))]
    return reader, TokenDataset(reader.encoder.encode_all(examples, source="rows"))


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("packing", [False, True])
def test_our_own_collator(ours, side, packing):
    reader, rows = ours
    batch = reader.collator(side, packing=packing)(list(rows))
    assert said(audit_batch(batch, reader.tokenizer, learns="answers")) == []


def test_the_investigations_own_collator(ours):
    """The demo's planted arm; beside it nothing is called an error."""
    reader, rows = ours
    batch = PromptPositions(reader.encoder.pad_id)(list(rows))
    findings = said(audit_batch(batch, reader.tokenizer))
    assert ("error", "answer-at-prompt-positions") in findings
    assert [id for severity, id in findings if severity == "error"] == ["answer-at-prompt-positions"]


def doubtful(world: World):
    """Batches that look like a fault and need not be one."""
    rows = world.rows()
    ends_unknown = [([*ids[:-1], 0, 0, 0, 0], [*labels[:-1], 0, 0, 0, 0]) for ids, labels in rows[:1]] + rows[1:]
    yield "a text that ends in unknown signs", world.batch(ends_unknown, pad=0), {}
    batch = world.batch(ends_unknown, to=400)
    del batch["attention_mask"]
    yield "the same without a mask", batch, {}
    begun = [([*world.begin, 0, 0, *ids[1:]], [-100] * (len(world.begin) + 2) + labels[1:]) for ids, labels in rows]
    yield "texts that begin in unknown signs", world.batch(begun), {}
    soft = [([0] * 20 + ids, [-100] * 20 + labels) for ids, labels in rows]
    yield "places of a learned prompt", world.batch(soft), {}
    yield "answers without an end, and it is meant", world.batch(world.rows(end=False)), {"learns": "text"}
    yield "the same, padded with another token", world.batch(world.rows(end=False), pad=0), {"learns": "text"}
    yield "whole texts without their end", world.batch([(ids, [*ids[:-1], -100]) for ids, _ in rows]), {}
    yield "an end token twice", world.batch([([*ids, world.eos], [*labels, world.eos]) for ids, labels in rows]), {}
    yield "a model that plays the user", world.batch(inverted(rows)), {"learns": "prompts"}
    corrupted = world.good()
    corrupted["input_ids"][:, 5::7] = corrupted["input_ids"][:, 3:4]
    corrupted["labels"] = world.good()["input_ids"].masked_fill(corrupted["attention_mask"] == 0, -100)
    yield "inputs that are corrupted on purpose", corrupted, {}
    ids = world.good()["input_ids"]
    yield (
        "denoising",
        {"input_ids": torch.where(ids % 3 > 0, 5, ids), "labels": ids.masked_fill(ids % 3 == 0, -100)},
        {},
    )
    shifted = world.good()
    views = {"input_ids": shifted["input_ids"][:, :-1], "labels": shifted["labels"][:, 1:]}
    yield "views of a stream", views, {"shifts": "batch"}
    short = [([*ids[: 10 + n], 400 + n], [-100] * (10 + n) + [400 + n]) for n, (ids, _) in enumerate(rows)]
    yield "labels of a classifier", world.batch(short), {}


@pytest.mark.parametrize("name", ["tinyllama-1.1b", "gpt2"])
def test_what_has_another_reading_is_no_error(name, world_of, read_once):
    world = world_of(name)
    for what, batch, options in doubtful(world):
        errors = [id for severity, id in said(audit_batch(batch, world.tokenizer, **options)) if severity == "error"]
        assert not errors, what


def test_labels_of_an_encoder_decoder_are_no_error(materials):
    """Another text as the labels is right there, and the tokenizer shows that it may be one."""
    tokenizer = copy.deepcopy(tokenizer_of(materials, "tok512"))
    world = World(tokenizer, pairs_of(materials))
    batch = next(fault.spoil for fault in FAULTS if fault.name == "prompt_in_answer_out")(world)
    assert ("error", "answer-at-prompt-positions") in said(audit_batch(batch, tokenizer))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<extra_id_0>"]})
    assert ("warning", "answer-at-prompt-positions") in said(audit_batch(batch, tokenizer))


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_any_good_choice_of_rows_has_no_error(world_of, read_once, data):
    world = world_of(data.draw(st.sampled_from(TOKENIZERS)))
    rows = world.rows(24)
    chosen = data.draw(st.lists(st.sampled_from(range(24)), min_size=1, max_size=6, unique=True))
    most = data.draw(st.integers(40, 400))
    kept = [(ids[:most], labels[:most]) for ids, labels in (rows[number] for number in chosen)]
    side = data.draw(st.sampled_from(["right", "left"]))
    batch = world.batch(kept, side=side, to=data.draw(st.sampled_from([0, 500])))
    if side == "right" and data.draw(st.booleans()):
        del batch["attention_mask"]
    found = said(audit_batch(batch, world.tokenizer))
    every = all((labels == -100).all() for labels in batch["labels"])
    errors = [id for severity, id in found if severity == "error"]
    if not every and not bool((batch["labels"] == world.eos).any()):
        # all answers were cut: no end is learned, whatever hides it
        errors = [id for id in errors if id not in ("eos-not-scored", "eos-missing")]
    assert errors == (["all-masked-rows"] if every else [])


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_integers_of_any_kind_are_judged_and_never_crash(world_of, read_once, data):
    world = world_of("tok512")
    size, width = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 12)))
    numbers = st.lists(st.sampled_from([-100, -1, 0, 1, 2, 3, 300, 511, 512, 2**40]), min_size=width, max_size=width)
    table = st.lists(numbers, min_size=size, max_size=size)
    flags = st.lists(st.lists(st.integers(0, 3), min_size=width, max_size=width), min_size=size, max_size=size)
    batch = {"input_ids": data.draw(table), "labels": data.draw(table)}
    if data.draw(st.booleans()):
        batch["attention_mask"] = data.draw(flags)
    if data.draw(st.booleans()):
        batch["position_ids"] = data.draw(flags)
    checks = audit_batch(
        batch,
        world.tokenizer,
        shifts=data.draw(st.sampled_from([None, "model", "batch"])),
        learns=data.draw(st.sampled_from([None, "answers", "text", "prompts"])),
        absolute_positions=True,
    )
    assert len({one.check for one in checks}) == len(checks)
    for one in checks:
        for finding in one.findings:
            assert finding.evidence and finding.example and finding.fix

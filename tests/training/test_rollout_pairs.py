"""Training on what the student writes, with a teacher of other tokens."""

from __future__ import annotations

import json
import string
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from distillab.config.run import RunRecipe
from distillab.data.paired import PairedDataset
from distillab.files import read_json_lines
from distillab.runs.run import execute
from distillab.runs.training_data import training_data
from distillab.training.sampling import StepSampler
from tests.tiny_world import save_tiny
from tests.training.rollout_steps import OWN, inputs_of, one_step

MERGED = [{"kind": "merged_spans", "divergence": "reverse_kl"}]
FREE = [
    MERGED,
    [{"kind": "vocabulary_projection", "rest": "none"}],
    [{"kind": "measured_transport", "rest": "none"}],
    [{"kind": "span_likelihood"}],
    [{"kind": "sorted_probabilities"}],
    [{"kind": "span_hidden_states"}],
    [{"kind": "contrastive", "queue": 32}],
]


across = partial(inputs_of, terms=MERGED)


def test_the_update_is_that_of_a_step_on_the_same_ids_bit_for_bit(
    tiny_world: dict[str, Any], stranger: str, tmp_path: Path
) -> None:
    inputs = across(tiny_world, tmp_path / "own", teacher={"path": stranger})
    own, a, rows = one_step(inputs, tmp_path / "a")
    assert a.rollout is not None and 0 < a.rollout["in_spans"] < 1 and a.rollout["student_entropy"] > 0
    assert "teacher_entropy" not in a.rollout
    fixed = across(tiny_world, tmp_path / "fixed", teacher={"path": stranger}, answers="dataset")
    data = training_data(fixed, fixed.train)
    # one row of each, and the sampler draws every row once
    order = _order(len(rows))
    placed = [rows[order.index(place)] for place in range(len(rows))]
    stored, b, _ = one_step(fixed, tmp_path / "b", data=replace(data, rows=PairedDataset(placed)))
    assert (a.terms, a.loss, a.grad_norm, a.teacher_tokens) == (b.terms, b.loss, b.grad_norm, b.teacher_tokens)
    assert torch.equal(own, stored)


def _order(rows: int) -> list[int]:
    return list(StepSampler(rows=rows, draws=rows, seed=0, batch_size=rows))


def test_microbatches_do_not_change_the_step(tiny_world: dict[str, Any], stranger: str, tmp_path: Path) -> None:
    reports = [
        one_step(
            across(tiny_world, tmp_path, teacher={"path": stranger}, training={"microbatch_size": size}),
            tmp_path / str(size),
        )[1]
        for size in (8, 2)
    ]
    assert reports[0].loss == pytest.approx(reports[1].loss, rel=1e-5)
    assert reports[0].teacher_tokens == reports[1].teacher_tokens


@pytest.mark.parametrize("terms", FREE, ids=lambda terms: terms[0]["kind"])
def test_every_term_trains_on_text_that_was_written(
    tiny_world: dict[str, Any], stranger: str, tmp_path: Path, terms: list[dict[str, Any]]
) -> None:
    inputs = across(tiny_world, tmp_path, teacher={"path": stranger}, terms=terms, training={"batch_size": 4})
    _, report, _ = one_step(inputs, tmp_path / "a")
    assert report.loss > 0 and report.grad_norm > 0


def _letters(folder: Path, seed: int) -> str:
    """A tiny model that reads one token a letter, so that there is one way to write a text."""
    letters = {letter: number for number, letter in enumerate([*string.ascii_letters, *" .?\n"])}
    backend = Tokenizer(models.BPE(vocab={"</s>": len(letters), **letters}, merges=[]))
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>").save_pretrained(folder)
    save_tiny(folder, seed, folder, vocabulary=len(letters) + 1)
    return str(folder)


def test_one_tokenizer_read_as_two_gives_the_step_of_shared_ids(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    names = [f"{a}{b}" for a in "abcdef" for b in "xyz"]
    rows.write_text("".join(json.dumps({"prompt": f"Who is {n}?", "answer": f"{n} is me."}) + "\n" for n in names))
    world = {
        "student": {"path": _letters(tmp_path / "student", 3)},
        "teacher": {"path": _letters(tmp_path / "teacher", 4)},
        "data": {"train": {"path": str(rows)}, "max_tokens": 64},
        "training": {"batch_size": 8, "learning_rate": 1e-3, "device": "cpu"},
        "evaluation": {"rows": 1, "curve_rows": 1, "generate_rows": 0},
    }
    shared = [{"kind": "token_divergence", "divergence": "reverse_kl"}]
    own, a, _ = one_step(across(world, tmp_path / "a"), tmp_path / "a")
    same, b, _ = one_step(across(world, tmp_path / "b", terms=shared), tmp_path / "b")
    assert a.rollout is not None and b.rollout is not None
    assert a.rollout["tokens"] == b.rollout["tokens"] and a.rollout["in_spans"] == 1
    assert a.loss == pytest.approx(b.loss, rel=1e-5) and a.teacher_tokens == b.teacher_tokens
    assert torch.allclose(own, same, atol=1e-6)


@pytest.mark.parametrize(("student", "teacher"), [("llama2xs-tok512", "smallmistral-stories")])
def test_a_real_pair_of_other_tokens(materials: Path, tmp_path: Path, student: str, teacher: str) -> None:
    recipe = RunRecipe.model_validate(
        {
            "student": {"path": str(materials / "models" / student)},
            "teacher": {"path": str(materials / "models" / teacher)},
            "data": {
                "train": {"path": str(materials / "text" / "tinystories" / "stories_dev.jsonl"), "limit": 300},
                "max_tokens": 240,
            },
            "method": "on_policy",
            "terms": MERGED,
            "answers": {**OWN, "max_new_tokens": 16},
            "training": {"steps": 2, "batch_size": 4, "device": "cpu"},
            "evaluation": {"rows": 2, "curve_rows": 2, "generate_rows": 0},
            "output": str(tmp_path),
        }
    )
    record = execute(recipe)
    assert record.cost.written_tokens > 0
    lines = [line["rollout"] for line in read_json_lines(tmp_path / "metrics.jsonl") if "rollout" in line]
    assert len(lines) == 2 and all(0.5 < line["in_spans"] <= 1 for line in lines)

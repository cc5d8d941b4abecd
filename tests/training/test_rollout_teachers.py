"""Training on what the student writes, by several teachers, and by one with prompts of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from distillab.data.collation import IndexedRow
from distillab.errors import ConfigError
from tests.tiny_world import save_tiny
from tests.training.rollout_steps import inputs_of, one_step

Weights = dict[str, float]


@pytest.fixture
def values(tiny_world: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Rows of which two always have one prompt, with a hint and a teacher for each."""
    rows = []
    for number in range(12):
        prompt, who = f"Where is box {number // 4}?", "ab"[number % 2]
        rows.append({"prompt": prompt, "answer": f"in {number}", "by": who, "hint": f"Say {number}. {prompt}"})
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    first = tiny_world["teacher"]["path"]
    second = str(save_tiny(tmp_path / "second", 7, Path(first), layers=2))
    both = {"a": {"path": first, "prompt_column": "hint"}, "b": {"path": second}}
    return {
        **tiny_world,
        "teacher": None,
        "teachers": both,
        "data": {"train": {"path": str(path)}, "held_out": {"path": str(path)}, "max_tokens": 96},
        "evaluation": {"rows": 2, "curve_rows": 2, "generate_rows": 0},
    }


def by_hand(values: dict[str, Any], inputs: Any, rows: list[IndexedRow]) -> float:
    """Mean reverse KL of the rows, of each to its teacher with its prompt, in float64."""
    teachers = values["teachers"]
    models = {name: AutoModelForCausalLM.from_pretrained(one["path"]).double() for name, one in teachers.items()}
    path = values["student"]["path"]
    student, tokenizer = AutoModelForCausalLM.from_pretrained(path).double(), AutoTokenizer.from_pretrained(path)
    total, count = 0.0, 0

    def logp(model: Any, prompt: list[int], answer: list[int]) -> torch.Tensor:
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *answer]])).logits[0]
        return logits[len(prompt) - 1 : -1].log_softmax(-1)

    for item in rows:
        row, example = item.row, inputs.train.examples[item.index]
        prompt, answer = row.input_ids[: row.prompt_length].tolist(), row.input_ids[row.prompt_length :].tolist()
        mixture = []
        for name, one in teachers.items():
            weight = one.get("weight", float(example.beside.get("by") == name))
            hint = one.get("prompt_column")
            given = tokenizer(f"{example.beside['hint']}\n")["input_ids"] if hint else prompt
            mixture.append(logp(models[name], given, answer) + torch.tensor(weight).double().log())
        q, p = logp(student, prompt, answer), torch.stack(mixture).logsumexp(0)
        total, count = total + float((q.exp() * (q - p)).sum()), count + len(answer)
    return total / count


@pytest.mark.parametrize("weights", [None, {"a": 0.25, "b": 0.75}], ids=["routed", "mixed"])
def test_each_answer_is_compared_with_its_teacher_at_its_prompt(
    values: dict[str, Any], tmp_path: Path, weights: Weights | None
) -> None:
    if weights is None:
        values["data"]["teacher_column"] = "by"
    else:
        values["teachers"] = {name: {**one, "weight": weights[name]} for name, one in values["teachers"].items()}
    inputs = inputs_of(values, tmp_path / "run", training={"microbatch_size": 4})
    _, report, rows = one_step(inputs, tmp_path / "a")
    assert report.loss == pytest.approx(by_hand(values, inputs, rows), rel=1e-5)
    assert report.rollout is not None and 0 < report.rollout["accept"] < 1
    assert report.teacher_tokens > report.tokens


def test_the_teacher_s_prompt_has_to_fit_into_its_context_too(values: dict[str, Any], tmp_path: Path) -> None:
    values["data"]["teacher_column"] = "by"
    rows = inputs_of(values, tmp_path / "run").train.rows
    longest = {"from": "student", "max_new_tokens": 128 - max(row.prompt_length for row in rows)}
    with pytest.raises(ConfigError, match="do not fit into the context of both models") as error:
        one_step(inputs_of(values, tmp_path / "run", answers=longest), tmp_path / "a")
    assert "teacher a: longest prompt" in str(error.value)


@pytest.mark.quantised
def test_a_quantised_teacher_is_near_its_weights(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    teacher = tiny_world["teacher"]
    _, whole, _ = one_step(inputs_of(tiny_world, tmp_path / "whole"), tmp_path / "a")
    _, found, _ = one_step(
        inputs_of(tiny_world, tmp_path / "int8", teacher={**teacher, "quantization": "int8"}), tmp_path / "b"
    )
    assert whole.rollout is not None and found.rollout is not None
    assert found.rollout["tokens"] == whole.rollout["tokens"]  # the first step's answers do not depend on the teacher
    assert 0 < abs(found.loss - whole.loss) < 0.05 * whole.loss

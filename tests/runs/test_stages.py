"""Runs of two stages: the second starts where the first has ended, and the record has both."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from distillab.config.run import RunRecipe
from distillab.config.study import StudyRecipe
from distillab.files import read_json_lines
from distillab.records import RunRecord, read_record
from distillab.runs.run import execute
from distillab.study.study import Study

OWN = {"from": "student", "max_new_tokens": 8}
STAGES = ["seqkd", {"method": "on_policy", "answers": OWN}]


def _recipe(tiny_world: dict[str, Any], output: Path, **changes: Any) -> RunRecipe:
    values = {key: value for key, value in tiny_world.items() if key != "seeds"}
    return RunRecipe(**{**values, "output": str(output), **changes})


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "student/model.safetensors")


def _equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_it_is_a_run_after_another_with_one_record(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    record = execute(_recipe(tiny_world, tmp_path / "both", stages=STAGES))
    training = {**tiny_world["training"], "steps": 2}
    first = execute(_recipe(tiny_world, tmp_path / "first", method="seqkd", training=training))
    student = {**tiny_world["student"], "path": str(tmp_path / "first/student")}
    changes = {"training": training, "student": student, **STAGES[1]}  # type: ignore[dict-item]
    second = execute(_recipe(tiny_world, tmp_path / "second", **changes))
    assert _equal(_weights(tmp_path / "both"), _weights(tmp_path / "second"))
    assert record.evaluation.metrics == second.evaluation.metrics
    assert record.warm_start is not None and record.warm_start.steps == 2 and record.cost.steps == 4
    for name in ("student_tokens", "teacher_tokens", "written_tokens", "supervised_tokens"):
        assert getattr(record.cost, name) == getattr(first.cost, name) + getattr(second.cost, name)
    assert [point.step for point in record.curve] == [0, 2, 4]
    assert record.curve[-1].supervised_tokens == record.cost.supervised_tokens
    assert record.answers is not None and record.rollout is not None
    assert any(note.startswith("stages: seqkd for 2 steps") for note in record.notes)


def test_after_an_interruption_the_first_stage_is_not_repeated(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    recipe = _recipe(tiny_world, tmp_path / "run", stages=STAGES)
    execute(recipe)
    weights, first = _weights(tmp_path / "run"), tmp_path / "run/warm_start/run.json"
    made = first.stat().st_mtime_ns
    (tmp_path / "run/run.json").unlink()
    shutil.rmtree(tmp_path / "run/student")
    execute(recipe)
    assert _equal(_weights(tmp_path / "run"), weights) and first.stat().st_mtime_ns == made


@pytest.mark.parametrize("budget", ["steps", "tokens"])
def test_in_a_study_it_is_one_arm_with_one_budget(tiny_world: dict[str, Any], tmp_path: Path, budget: str) -> None:
    values = {**tiny_world, "training": {**tiny_world["training"], "steps": 20}, "seeds": [0]}
    arms = ["sft", "seqkd", {"name": "staged", "stages": STAGES}]
    recipe = StudyRecipe(**values, arms=arms, budget=budget, output=str(tmp_path))
    assert [arm.name for arm in recipe.arms] == ["sft", "seqkd", "staged", "staged_fixed"]
    results = Study(recipe, reproduce="").run()
    staged = next(arm for arm in results.arms if arm.name == "staged")
    assert staged.twin == "staged_fixed" and len(results.answer_stores) == 1
    if budget == "steps":
        assert staged.costs[0].steps == 20
        return
    record = read_record(RunRecord, tmp_path / "runs/staged/seed0/run.json")
    first = read_record(RunRecord, tmp_path / "runs/staged/seed0/warm_start/run.json")
    assert record.cost.budget_spent is not None and first.cost.budget_spent is not None
    assert 1.0 <= record.cost.budget_spent < 1.2 and 1.0 <= first.cost.budget_spent < 1.2
    steps = read_json_lines(tmp_path / "runs/staged/seed0/metrics.jsonl")
    prompts = sum(line["rollout"]["prompt_tokens"] for line in steps if "rollout" in line)
    used = record.cost.student_tokens + record.cost.written_tokens + prompts + record.cost.teacher_tokens
    assert record.cost.budget_spent == pytest.approx(
        used / record.config["training"]["budget"]["read_tokens"], rel=1e-3
    )


def test_what_is_no_pair_of_stages_is_refused(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    for changes, reason in (
        ({"stages": ["seqkd"]}, "stages are two"),
        ({"stages": ["sft", "on_policy"], "method": "sft"}, "stages are two"),
        ({"stages": ["soqkd", "on_policy"]}, "no such method"),
        ({"stages": STAGES, "training": {"steps": 1, "device": "cpu"}}, "steps of 2 or more"),
    ):
        with pytest.raises(ValueError, match=reason):
            _recipe(tiny_world, tmp_path, **changes)

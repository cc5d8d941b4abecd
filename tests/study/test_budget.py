"""Arms of a study with one budget in tokens or operations: counted by hand from what each run logged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from distillab.config.study import StudyRecipe
from distillab.errors import ConfigError
from distillab.records import RunRecord
from distillab.study.study import Study
from distillab.training.trainer import DistillationTrainer

OWN = {"from": "student", "max_new_tokens": 8}
ARMS = ["sft", {"name": "own", "method": "on_policy", "answers": OWN}]


def _recipe(tiny_world: dict[str, Any], output: Path, **changes: Any) -> StudyRecipe:
    training = {**tiny_world["training"], "steps": 6, "checkpoint_every": 1}
    values = {**tiny_world, "training": training, "seeds": [0], "output": str(output)}
    return StudyRecipe(**{**values, **changes})


def _runs(recipe: StudyRecipe) -> dict[str, tuple[RunRecord, list[dict[str, Any]]]]:
    study, found = Study(recipe, reproduce=""), {}
    study.run()
    for arm in recipe.arms:
        record = study.execute(arm, 0)
        lines = map(json.loads, (Path(recipe.output) / f"runs/{arm.name}/seed0/metrics.jsonl").read_text().splitlines())
        taught = arm.resolved().reads_signals  # the line counts what a teacher would read
        steps = [line | ({} if taught else {"teacher_tokens": 0}) for line in lines if "terms" in line]
        found[arm.name] = (record, steps)
    return found


def _tokens(step: dict[str, Any]) -> float:
    rollout = step.get("rollout", {"tokens": 0, "prompt_tokens": 0})
    return float(step["tokens"] + step["teacher_tokens"] + rollout["tokens"] + rollout["prompt_tokens"])


def _operations(recipe: StudyRecipe) -> Callable[[dict[str, Any]], float]:
    """Twice a parameter and token, embeddings not; their transpose is the head, at the scored tokens alone."""

    def forward(path: str) -> Callable[[float, float], float]:
        model = AutoModelForCausalLM.from_pretrained(path)
        table = model.lm_head.weight.numel()
        blocks = sum(p.numel() for p in model.parameters()) - table  # tied
        return lambda tokens, scored: 2 * (blocks * tokens + table * scored)

    assert recipe.teacher is not None and recipe.teacher.path is not None
    student, teacher = forward(recipe.student.path), forward(recipe.teacher.path)

    def of(step: dict[str, Any]) -> float:
        scored, rollout = step["supervised_tokens"], step.get("rollout", {"tokens": 0, "prompt_tokens": 0})
        written = rollout["tokens"]
        generated = student(written + rollout["prompt_tokens"], written)
        taught = teacher(step["teacher_tokens"], scored) if step["teacher_tokens"] else 0.0
        return 3 * student(step["tokens"], scored) + generated + taught

    return of


@pytest.mark.parametrize("unit", ["tokens", "flops"])
def test_every_run_ends_with_the_step_that_reaches_what_sft_uses(
    tiny_world: dict[str, Any], tmp_path: Path, unit: str
) -> None:
    recipe = _recipe(tiny_world, tmp_path, arms=ARMS, budget=unit)
    of: Callable[[dict[str, Any]], float] = _tokens if unit == "tokens" else _operations(recipe)
    runs = _runs(recipe)
    sft = [of(step) for step in runs["sft"][1]]
    assert len(sft) == 6
    for name in ("own", "own_fixed"):
        record, steps = runs[name]
        used = [of(step) for step in steps]
        assert record.cost.steps == len(steps) < 6
        assert sum(used[:-1]) < sum(sft) <= sum(used) * (1 + 1e-9)
        assert record.cost.budget_spent == pytest.approx(sum(used) / sum(sft))
        assert steps[0]["budget_spent"] == pytest.approx(used[0] / sum(sft))
        # the schedule is linear in the share that was used before the step
        before = [sum(used[:at]) / sum(sft) for at in range(len(used))]
        assert [step["learning_rate"] for step in steps] == pytest.approx([1e-3 * (1 - share) for share in before])
        assert record.curve[-1].step == len(steps)


def test_the_teachers_answers_are_used_before_the_first_step(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    changes = {"arms": ["sft", "seqkd"], "budget": "tokens"}
    longer = {**tiny_world["training"], "steps": 30}
    runs = _runs(_recipe(tiny_world, tmp_path, training=longer, **changes))
    record, steps = runs["seqkd"]
    assert record.answers is not None
    budget = sum(map(_tokens, runs["sft"][1]))
    used = [record.answers.teacher_tokens + sum(map(_tokens, steps[:at])) for at in range(len(steps) + 1)]
    assert used[-2] < budget <= used[-1]
    short = _recipe(tiny_world, tmp_path / "short", training={**longer, "steps": 1}, **changes)
    with pytest.raises(ConfigError, match="alone takes the whole budget"):
        Study(short, reproduce="").run()


def test_a_resumed_run_ends_at_the_same_step_with_the_same_student(
    tiny_world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = _recipe(tiny_world, tmp_path, arms=ARMS, budget="tokens", teacher_signals="online")
    own = recipe.arms[1]
    whole = Study(recipe, reproduce="").execute(own, 0)
    folder = tmp_path / "runs/own/seed0"
    weights = load_file(folder / "student/model.safetensors")
    saved = DistillationTrainer._save_checkpoint

    for stop in (2, whole.cost.steps):

        def save(self: Any, *given: Any, stop: int = stop) -> None:
            saved(self, *given)
            if self.state.global_step == stop:
                raise KeyboardInterrupt

        shutil.rmtree(folder)
        with monkeypatch.context() as patch:
            patch.setattr(DistillationTrainer, "_save_checkpoint", save)
            with pytest.raises(KeyboardInterrupt):
                Study(recipe, reproduce="").execute(own, 0)
        resumed = Study(recipe, reproduce="").execute(own, 0)
        assert (resumed.cost.steps, resumed.cost.budget_spent) == (whole.cost.steps, whole.cost.budget_spent)
        found = load_file(folder / "student/model.safetensors")
        assert all(torch.equal(found[name], weights[name]) for name in weights)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"training": {"budget": {"unit": "tokens", "read_tokens": 1, "scored_tokens": 1}}}, "set by the study"),
        ({"teacher": {"server": {"url": "http://x", "model": "m"}}}, "needs one teacher"),
    ],
)
def test_a_budget_that_cannot_be_counted_is_refused(
    tiny_world: dict[str, Any], tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        StudyRecipe(**{**tiny_world, "arms": ["sft"], "budget": "flops", "output": str(tmp_path), **changes})

"""Whole runs, and a study, whose student writes answers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distillab.config.models import RunRecipe, StudyRecipe
from distillab.errors import ConfigError
from distillab.files import read_json_lines
from distillab.records import RunRecord, read_record
from distillab.runs.run import execute
from distillab.study.study import Study

OWN = {"from": "student", "max_new_tokens": 8}
# PEFT reads it
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def _recipe(tiny_world: dict[str, Any], output: Path, **changes: Any) -> RunRecipe:
    values = {key: value for key, value in tiny_world.items() if key != "seeds"}
    return RunRecipe(**{**values, "method": "on_policy", "answers": OWN, "output": str(output), **changes})


@pytest.mark.parametrize("student", [{}, {"adapter": {"rank": 2, "alpha": 8, "targets": ["q_proj"]}}])
def test_a_run_records_what_its_student_wrote(
    tiny_world: dict[str, Any], tmp_path: Path, student: dict[str, Any]
) -> None:
    recipe = _recipe(tiny_world, tmp_path, student={**tiny_world["student"], **student})
    record = execute(recipe)
    steps = [line for line in read_json_lines(tmp_path / "metrics.jsonl") if "terms" in line]
    assert len(steps) == 4
    for line in steps:
        assert line["rollout"]["fraction"] == 0.75
        assert line["rollout"]["max_new_tokens"] == 8
        assert 0 < line["rollout"]["tokens"] <= 6 * 8
        assert 0 < line["rollout"]["accept"] < 1
    assert record.cost.written_tokens == sum(line["rollout"]["tokens"] for line in steps)
    assert record.access == "logits"
    assert record.teacher_signals == "online"
    # two models with random weights have little in common
    assert any("start from it" in note for note in record.notes)
    assert any("raise it" in note for note in record.notes)


def test_answers_that_do_not_fit_into_the_context_are_refused(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    recipe = _recipe(tiny_world, tmp_path, answers={**OWN, "max_new_tokens": 120})
    with pytest.raises(ConfigError, match="do not fit into the context") as error:
        execute(recipe)
    assert "context 128" in str(error.value)


def test_in_a_study_the_arm_reads_the_teacher_itself(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    arms = [
        "sft",
        {"name": "own", "method": "on_policy", "answers": {**OWN, "otherwise": "teacher"}},
        {"name": "fixed", "method": "on_policy", "answers": "dataset"},
    ]
    recipe = StudyRecipe(**{**tiny_world, "seeds": [0]}, arms=arms, output=str(tmp_path))
    Study(recipe, reproduce="").run()
    runs = {
        arm.name: read_record(RunRecord, tmp_path / "runs" / arm.name / "seed0" / "run.json") for arm in recipe.arms
    }
    assert (runs["own"].teacher_signals, runs["fixed"].teacher_signals) == ("online", "cached")
    assert runs["own"].answers is not None
    assert runs["own"].cost.written_tokens > 0 == runs["fixed"].cost.written_tokens

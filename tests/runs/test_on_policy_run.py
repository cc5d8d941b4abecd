"""Whole runs, and a study, whose student writes answers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distillab.config.run import RunRecipe
from distillab.config.study import StudyRecipe
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
        shares = [line["rollout"][f"share_{part}"] for part in ("generate", "teacher", "student")]
        assert sum(shares) == pytest.approx(1.0) and min(shares) > 0
    assert record.cost.written_tokens == sum(line["rollout"]["tokens"] for line in steps)
    assert record.rollout is not None and record.rollout.steps == 1
    assert record.rollout.first == steps[0]["rollout"] and record.rollout.last == steps[-1]["rollout"]
    assert record.access == "logits"
    assert record.teacher_signals == "online"
    assert any("raise it" in note for note in record.notes)


def test_the_same_prompts_are_answered_before_and_after_training(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    def written(name: str, rate: float) -> list[tuple[str, str, str]]:
        training = {**tiny_world["training"], "learning_rate": rate}
        record = execute(_recipe(tiny_world, tmp_path / name, training=training))
        assert record.rollout is not None
        return [(one.prompt, one.first, one.last) for one in record.rollout.samples]

    still = written("still", 1e-12)
    assert len({prompt for prompt, *_ in still}) == 3
    assert [first for _, first, _ in still] == [last for *_, last in still]
    moved = written("moved", 3e-2)
    assert [one[:2] for one in moved] == [one[:2] for one in still]
    assert [one[2] for one in moved] != [one[2] for one in still]


def test_what_needs_a_change_is_printed_when_it_arises(
    tiny_world: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    execute(_recipe(tiny_world, tmp_path, training={**tiny_world["training"], "steps": 17}))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("training run: ")]
    assert ["of the last 16 steps" in line for line in lines if "student" in line] == [True]


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
    assert [arm.name for arm in recipe.arms] == ["sft", "own", "own_fixed", "fixed"]
    results = Study(recipe, reproduce="").run()
    runs = {
        arm.name: read_record(RunRecord, tmp_path / "runs" / arm.name / "seed0" / "run.json") for arm in recipe.arms
    }
    assert (runs["own"].teacher_signals, runs["fixed"].teacher_signals) == ("online", "cached")
    assert runs["own"].answers is not None
    assert runs["own"].cost.written_tokens > 0 == runs["fixed"].cost.written_tokens
    # the teacher's signals on these rows are in a cache, so the answers of its student were scored afterwards
    (own,) = [arm for arm in results.arms if arm.on_policy]
    fixed = next(arm for arm in results.arms if arm.name == "own_fixed")
    assert own.twin == "own_fixed" and own.rollouts == (runs["own"].rollout,)
    kl = own.against_twin[0]
    values = [arm.evaluations[0].value("own_kl_from_teacher") for arm in (own, fixed)]
    assert kl.metric == "own_kl_from_teacher" and None not in values
    assert kl.difference.mean == pytest.approx(values[0] - values[1], rel=1e-9)  # type: ignore[operator]
    assert "own against own_fixed, the same loss on stored answers: " in results.verdict
    assert "KL from teacher on own text" in results.verdict


def test_continuous_batching_writes_every_second_step_s_answers(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    record = execute(_recipe(tiny_world, tmp_path, answers={**OWN, "sampler": "continuous_batching", "reuse": 2}))
    steps = [line["rollout"] for line in read_json_lines(tmp_path / "metrics.jsonl") if "rollout" in line]
    assert [step["stale_max_age"] for step in steps] == [0, 1, 0, 1]
    assert max(step["sampler_gap"] for step in steps[::2]) < 1e-5
    assert any("a repeated run can draw others" in note for note in record.notes)


def test_a_student_that_a_server_cannot_be_given_is_refused(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    adapter = {"rank": 2, "alpha": 8, "targets": ["q_proj"]}
    sampler = {"server": {"url": "http://127.0.0.1:1"}, "folder": str(tmp_path / "weights")}
    recipe = _recipe(
        tiny_world,
        tmp_path / "run",
        student={**tiny_world["student"], "adapter": adapter},
        answers={**OWN, "sampler": sampler},
    )
    with pytest.raises(ConfigError, match="by this process alone") as error:
        execute(recipe)
    assert "it has adapters, and a server reads whole weights" in str(error.value)
    assert not (tmp_path / "weights").exists()

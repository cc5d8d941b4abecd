"""Teacher correction: what it trains, on which rows, who learns from it, and what is recorded of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from distillab.config.run import RunRecipe
from distillab.config.study import StudyRecipe
from distillab.errors import ConfigError
from distillab.records import RunRecord, StudyResults, read_record
from distillab.report.entries import entries
from distillab.report.sections import costs
from distillab.runs.run import execute
from distillab.study.cache_build import cache_builds
from distillab.study.study import Study

CORRECTION = {"steps": 3, "learning_rate": 2e-3}
ARMS = ["sft", "logits", {"name": "corrected", "method": "logits", "teacher_correction": CORRECTION}]


def _study(values: dict[str, Any], output: Path, **changes: Any) -> StudyRecipe:
    return StudyRecipe(**{**values, "arms": ARMS, "seeds": [0], **changes}, output=str(output))


def _run(values: dict[str, Any], output: Path, **changes: Any) -> RunRecipe:
    return RunRecipe(**{key: value for key, value in values.items() if key != "seeds"} | changes, output=str(output))


@pytest.fixture(scope="module")
def folder(tiny_world: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished study."""
    output = tmp_path_factory.mktemp("corrected") / "study"
    Study(_study(tiny_world, output), reproduce="x").run()
    return output


def _record(folder: Path, arm: str) -> RunRecord:
    return read_record(RunRecord, folder / "runs" / arm / "seed0" / "run.json")


def _correction(folder: Path) -> Path:
    (found,) = (folder / "corrected_teachers").iterdir()
    return found


def test_the_corrected_teacher_is_that_of_sft_by_the_same_trainer(
    tiny_world: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    training = {**tiny_world["training"], **CORRECTION}
    execute(_run(tiny_world, tmp_path / "sft", student=tiny_world["teacher"], method="sft", training=training))
    wanted = load_file(tmp_path / "sft" / "student" / "model.safetensors")
    found = load_file(_correction(folder) / "student" / "model.safetensors")
    plain = load_file(Path(tiny_world["teacher"]["path"]) / "model.safetensors")
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert any(not torch.equal(found[name], plain[name]) for name in wanted)


def test_it_reads_the_training_rows_alone(folder: Path) -> None:
    correction = read_record(RunRecord, _correction(folder) / "run.json")
    rows = ("train_rows", "held_out_rows")
    assert [correction.fingerprints[name] for name in rows] == [_record(folder, "sft").fingerprints[n] for n in rows]
    assert correction.train_counts.rows == _record(folder, "sft").train_counts.rows
    assert correction.cost.steps == 3 and correction.cost.supervised_tokens > 0


def test_the_arm_learns_from_it_and_the_others_from_the_plain_one(folder: Path) -> None:
    results = read_record(StudyResults, folder / "results.json")
    name = _correction(folder).name
    assert {arm.name: arm.teacher for arm in results.arms} == {"sft": None, "logits": "teacher", "corrected": name}
    teachers = {point.name: point for point in results.baselines if point.role == "teacher"}
    assert list(teachers) == ["teacher", name]
    plain, corrected = (point.evaluation.value("nats_per_token") for point in teachers.values())
    assert plain is not None and corrected is not None and corrected < plain
    assert teachers["teacher"].correction is None and "the teacher, corrected" in (teachers[name].note or "")
    assert _record(folder, "logits").evaluation != _record(folder, "corrected").evaluation


def test_the_cost_is_in_the_records_and_in_the_report(folder: Path) -> None:
    results = read_record(StudyResults, folder / "results.json")
    cost = read_record(RunRecord, _correction(folder) / "run.json").cost
    assert (
        _record(folder, "corrected").teacher_correction == cost and _record(folder, "logits").teacher_correction is None
    )
    assert next(point for point in results.baselines if point.correction).correction == cost
    row = next(row for row in costs(entries(results)).rows if row[0] == _correction(folder).name)
    assert row[2:4] == ("3", f"{cost.supervised_tokens:,}")
    seconds = {arm.name: arm.teacher_cost.seconds or 0.0 for arm in results.arms}
    assert seconds["corrected"] > cost.wall_s


def test_a_finished_study_trains_no_teacher_again(tiny_world: dict[str, Any], folder: Path) -> None:
    weights = _correction(folder) / "student" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    again = Study(_study(tiny_world, folder), reproduce="x").run()
    assert weights.stat().st_mtime_ns == before
    assert again == read_record(StudyResults, folder / "results.json")


def test_all_arms_of_a_study_share_one_correction(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    recipe = _study(tiny_world, tmp_path / "study", arms=["sft", "logits"], teacher_correction=CORRECTION)
    results = Study(recipe, reproduce="x").run()
    name = _correction(tmp_path / "study").name
    assert [point.name for point in results.baselines] == ["undistilled", "teacher", name]
    assert [_record(tmp_path / "study", arm).teacher.name for arm in ("sft", "logits")] == [name, name]  # type: ignore[union-attr]


def test_a_run_corrects_its_teacher_first(tiny_world: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    recipe = _run(tiny_world, tmp_path / "run", method="logits", teacher_correction=CORRECTION)
    record = execute(recipe)
    assert record.config["teacher"]["path"] == tiny_world["teacher"]["path"]
    assert record.teacher is not None and record.teacher.name == _correction(folder).name
    assert record.teacher_correction is not None and record.teacher_correction.steps == 3
    # the figures are those of the study's arm, whose settings are the same
    value = _record(folder, "corrected").evaluation.value("nats_per_token")
    assert record.evaluation.value("nats_per_token") == pytest.approx(value, abs=1e-5)
    assert execute(recipe) == record
    AutoModelForCausalLM.from_pretrained(_correction(tmp_path / "run") / "student")
    with pytest.raises(ConfigError, match="another recipe"):
        execute(_run(tiny_world, tmp_path / "run", method="logits", teacher_correction={**CORRECTION, "seed": 1}))


def test_a_correction_that_makes_the_teacher_worse_is_refused(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    destroying = {**CORRECTION, "learning_rate": 10.0}
    with pytest.raises(ConfigError, match="made the teacher worse") as caught:
        execute(_run(tiny_world, tmp_path / "run", method="logits", teacher_correction=destroying))
    assert "learning rate of 10" in str(caught.value) and "teacher_correction.learning_rate" in str(caught.value)
    assert not (tmp_path / "run" / "student").exists()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT reads it
def test_adapters_correct_a_teacher_that_is_saved_whole(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    correction = {**CORRECTION, "adapter": {"kind": "lora", "rank": 2}}
    execute(_run(tiny_world, tmp_path / "run", method="logits", teacher_correction=correction))
    found = load_file(_correction(tmp_path / "run") / "student" / "model.safetensors")
    plain = load_file(Path(tiny_world["teacher"]["path"]) / "model.safetensors")
    changed = {name for name in plain if not torch.equal(found[name], plain[name])}
    assert found.keys() == plain.keys() and changed and all("proj" in name for name in changed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher_correction": CORRECTION, "method": "sft"}, "has no effect: method sft"),
        ({"teacher_correction": CORRECTION, "teacher": {"path": "a", "cache": "b"}}, "needs one, and no cache"),
        ({"teacher_correction": CORRECTION, "training": {"steps": 9, "warmup_steps": 5}}, "warmup_steps 5 is larger"),
        ({"teacher_correction": {"steps": 3, "rate": 1.0}}, "rate"),
    ],
)
def test_what_cannot_be_corrected_is_refused(
    tiny_world: dict[str, Any], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        _run(tiny_world, tmp_path, **{"method": "logits", **changes})


def test_an_arm_without_teacher_and_a_cache_are_refused(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    arms = [{"name": "sft", "method": "sft", "teacher_correction": CORRECTION}]
    with pytest.raises(ValidationError, match="arm sft: teacher_correction has no effect"):
        _study(tiny_world, tmp_path, arms=arms)
    with pytest.raises(ConfigError, match="corrected teacher"):
        cache_builds(_study(tiny_world, tmp_path))

"""Runs and studies whose student is made from the teacher."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import distillab as dl
from distillab.config.loader import build_recipe
from distillab.config.run import RunRecipe
from distillab.config.study import StudyRecipe
from distillab.errors import ConfigError, DataError
from distillab.models.loading import load_model
from distillab.preflight.recipe import audit_recipe
from distillab.records import PruningRecord, read_record
from distillab.runs.inputs import RunInputs, load_inputs
from distillab.runs.pruned import calibration_rows, keep_student, made_student
from distillab.runs.run import execute
from distillab.study.study import Study
from tests.gguf_files import byte_level, tiny_llama, write_gguf
from tests.tiny_world import save_tiny


@pytest.fixture
def values(tiny_world: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Of a run; its teacher has four blocks, and the student two of them."""
    teacher = save_tiny(tmp_path / "deep", 4, Path(tiny_world["teacher"]["path"]), layers=4)
    student = {"from_teacher": {"keep_layers": 2, "mlp": 0.5, "heads": 0.5, "calibration_rows": 16}}
    base = {key: value for key, value in tiny_world.items() if key != "seeds"}
    return {**base, "teacher": {"path": str(teacher)}, "student": student, "output": str(tmp_path / "run")}


def _inputs(values: dict[str, Any], **changes: Any) -> RunInputs:
    return load_inputs(RunRecipe(**{**values, **changes}))


def _seeded(values: dict[str, Any], seed: int) -> dict[str, Any]:
    return {"from_teacher": {**values["student"]["from_teacher"], "seed": seed}}


def _pruning(folder: Path) -> PruningRecord:
    return read_record(PruningRecord, folder / "pruning.json")


def test_a_run_makes_its_student_once_and_begins_from_it(values: dict[str, Any], tmp_path: Path) -> None:
    record = execute(RunRecipe(**values, method="logits"))
    made = tmp_path / "run" / "made"
    pruning = _pruning(made)
    assert (pruning.before.layers, pruning.after.layers, pruning.after.mlp_channels) == (4, 2, 24)
    assert pruning.calibration is not None and pruning.calibration.rows == 16
    assert pruning.after.parameters == sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(made).parameters())
    assert f"the student is {pruning.line}" in record.notes
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "student")
    assert trained.config.num_hidden_layers == 2
    written = (made / "pruning.json").stat().st_mtime_ns
    assert execute(RunRecipe(**values, method="logits")) == record
    assert (made / "pruning.json").stat().st_mtime_ns == written
    changed = RunRecipe(**{**values, "student": _seeded(values, 1)}, method="logits")
    with pytest.raises(ConfigError, match="another recipe") as caught:
        execute(changed)
    assert "student.from_teacher.seed" in str(caught.value)


def test_what_is_kept_and_what_is_made_again_are_the_same_weights(values: dict[str, Any]) -> None:
    inputs = _inputs(values)
    fresh = made_student(inputs).state_dict()
    assert not inputs.made.exists()  # the doctor, say, writes nothing
    keep_student(inputs)
    kept = made_student(inputs).state_dict()
    assert fresh.keys() == kept.keys() and all(torch.equal(fresh[name], kept[name]) for name in fresh)


def test_parts_are_measured_on_training_rows_alone(values: dict[str, Any], tmp_path: Path) -> None:
    inputs = _inputs(values)
    keys = {row.key for row in calibration_rows(inputs)}
    assert len(keys) == 16
    assert keys <= {row.key for row in inputs.train.rows} and not keys & inputs.held_out_keys
    assert keys != {row.key for row in calibration_rows(_inputs(values, student=_seeded(values, 1)))}
    first = keep_student(inputs)
    # other held-out rows: the same student
    lines = Path(values["data"]["held_out"]["path"]).read_text(encoding="utf-8").splitlines()
    fewer = tmp_path / "held.jsonl"
    fewer.write_text("\n".join(lines[: len(lines) // 2]), encoding="utf-8")
    data = {**values["data"], "held_out": {"path": str(fewer)}}
    assert keep_student(_inputs(values, data=data)) == first


def test_a_study_shares_it_and_says_what_its_student_is(values: dict[str, Any], tmp_path: Path) -> None:
    arms = ["sft", {"name": "inner", "method": "logits", "terms": [{"kind": "hidden_states"}]}]
    settings = {**values, "arms": arms, "seeds": [0], "output": str(tmp_path / "study")}
    results = Study(StudyRecipe(**settings), reproduce="").run()
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("pruning.json")] == ["study/made/pruning.json"]
    student = next(point for point in results.baselines if point.role == "undistilled student")
    assert student.note == _pruning(tmp_path / "study" / "made").line
    assert "2 of 4 layers, 24 of 48 MLP channels, 1 of 2 heads" in student.note


def test_the_doctor_knows_its_size_and_writes_nothing(values: dict[str, Any], tmp_path: Path) -> None:
    found = audit_recipe(RunRecipe(**values))
    assert "made from deep" in found.subject
    assert not (tmp_path / "run").exists()


def test_a_folder_of_something_else_is_left_alone(values: dict[str, Any]) -> None:
    inputs = _inputs(values)
    record = keep_student(inputs)
    weights = inputs.made / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(DataError, match="have changed since"):
        made_student(inputs)
    train = {"train": {**values["data"]["train"], "limit": 30}}
    with pytest.raises(DataError, match="other calibration rows"):
        made_student(_inputs(values, data={**values["data"], **train}))
    (inputs.made / "pruning.json").unlink()
    with pytest.raises(ConfigError, match="distillab did not make it"):
        keep_student(inputs)
    assert record is not None


def test_the_python_door_prunes_a_model_in_memory(values: dict[str, Any], tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(values["teacher"]["path"])
    rows = [json.loads(line) for line in Path(values["data"]["train"]["path"]).read_text("utf-8").splitlines()]
    settings = {"data.max_tokens": 96}
    folder = dl.prune(teacher=model, train=rows, keep_layers=[0, 3], output=tmp_path / "small", settings=settings)
    student = AutoModelForCausalLM.from_pretrained(folder)
    blocks = [model.model.layers[0], model.model.layers[3]]
    for block, made in zip(blocks, student.model.layers, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(block.parameters(), made.parameters(), strict=True))
    assert dl.prune(teacher=model, train=rows, keep_layers=[0, 3], output=folder, settings=settings) == folder
    # the teacher's tokenizer is with it, so that it is a student like any other
    assert dl.check_pair(values["teacher"]["path"], folder).contract.verdict == "identical"


def test_a_gguf_file_is_pruned_into_plain_safetensors(values: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = byte_level(single_digits=True)
    file = write_gguf(tmp_path / "whole.gguf", tiny_llama(tokenizer.get_vocab_size()), tokenizer)
    settings = {"data.template": "plain", "data.max_tokens": 96}
    folder = dl.prune(
        teacher=file,
        train=values["data"]["train"]["path"],
        keep_layers=[1],
        output=tmp_path / "small",
        settings=settings,
    )
    student = AutoModelForCausalLM.from_pretrained(folder)
    assert "quantization_config" not in json.loads((folder / "config.json").read_text("utf-8"))
    whole = load_model(str(file), dtype="float32", device=torch.device("cpu"), revision=None, role="student")
    pairs = zip(whole.model.layers[1].parameters(), student.model.layers[0].parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep_layers": 2, "calibration_rows": 0}, "calibration_rows"),
        ({"keep_layers": [0, 2], "calibration_rows": 8}, "calibration_rows: no effect"),
        ({"keep_layers": {"count": 2, "by": "uniform"}, "seed": 3}, "seed: no effect"),
        ({}, "from_teacher keeps everything"),
        ({"keep_layers": [2, 0]}, "ascends"),
        ({"keep_layers": "half"}, "keep_layers"),
        ({"mlp": 1.0}, "mlp"),
        ({"keep_layer": 2}, "keep_layers"),
    ],
)
def test_settings_without_effect_or_meaning_are_refused(
    changes: dict[str, Any], message: str, values: dict[str, Any]
) -> None:
    given = {**values, "student": {"from_teacher": changes}}
    with pytest.raises(ConfigError, match="cannot be used") as caught:
        build_recipe(RunRecipe, given, (), where="a test")
    assert message in str(caught.value)


def test_more_than_the_teacher_has_is_refused_before_any_weight_is_loaded(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must be a smaller part"):
        _inputs(values, student={"from_teacher": {"keep_layers": 4}})


def test_a_student_of_the_teacher_needs_its_weights_and_keeps_them(values: dict[str, Any]) -> None:
    for changes, message in (
        ({"teacher": None}, "add teacher"),
        ({"teacher": {**values["teacher"], "adapter": "folder"}}, "without its adapter"),
        ({"student": {**values["student"], "init": "random"}}, "init: random"),
    ):
        with pytest.raises(ConfigError, match="cannot be used") as caught:
            build_recipe(RunRecipe, {**values, **changes}, (), where="a test")
        assert message in str(caught.value)
    recipe = build_recipe(RunRecipe, values, (), where="a test")
    assert recipe.student.path == values["teacher"]["path"]
    assert RunRecipe(**recipe.model_dump()) == recipe  # as a run's folder keeps it

"""Whole studies on a tiny world, with real files, real training and real interruptions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from distillab.config.run import RunRecipe
from distillab.config.study import StudyRecipe
from distillab.demo.failures import PromptPositions
from distillab.doctor.run.logs import read_runs
from distillab.errors import CacheMismatch, ConfigError, NumericsError, TeacherError, TokenizerMismatch
from distillab.records import RunRecord, StudyResults, read_record
from distillab.runs.folder import read_held_out
from distillab.runs.inputs import load_inputs
from distillab.runs.run import execute
from distillab.study.study import Study


def _run(values: dict[str, Any], output: Path, **changes: Any) -> RunRecipe:
    base = {key: value for key, value in values.items() if key != "seeds"}
    return RunRecipe(**{**base, "output": str(output), **changes})


def _study(recipe: StudyRecipe, **changes: Any) -> Study:
    return Study(recipe.model_copy(update=changes), reproduce="distillab compare x.yaml")


def _weights(folder: Path) -> torch.Tensor:
    tensors = load_file(folder / "student" / "model.safetensors")
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


def _same_but_for_time(a: RunRecord, b: RunRecord) -> bool:
    out = {"cost", "config"}
    return a.model_dump(exclude=out) == b.model_dump(exclude=out)


@pytest.fixture(scope="module")
def finished(tiny_world: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyRecipe, StudyResults]:
    """A study that was run to its end, and its results; nothing in its folder may change."""
    recipe = StudyRecipe(**tiny_world, output=str(tmp_path_factory.mktemp("finished") / "study"))
    return recipe, _study(recipe).run()


def test_a_study_holds_every_arm_seed_end_point_and_reference(finished: tuple[StudyRecipe, StudyResults]) -> None:
    study_recipe, results = finished
    assert [arm.name for arm in results.arms] == ["sft", "seqkd", "logits"]
    assert all(arm.seeds == (0, 1) and len(arm.evaluations) == 2 for arm in results.arms)
    assert {point.role for point in results.baselines} == {"undistilled student", "teacher"}
    assert results.references.uniform_nats == pytest.approx(np.log(400))
    assert 0 < results.references.unigram_nats < results.references.uniform_nats
    by_name = {arm.name: arm for arm in results.arms}
    assert by_name["sft"].against_sft is None and by_name["sft"].teacher is None
    assert by_name["logits"].against_sft is not None and by_name["logits"].access == "logits"
    assert all(e.value("kl_from_teacher") is not None for arm in results.arms for e in arm.evaluations)
    assert [point.step for point in by_name["sft"].curves[0]] == [0, 2, 4]
    # the time of what is made once is with the arms that are trained on it; the yardstick is no arm's
    costs = {name: arm.teacher_cost for name, arm in by_name.items()}
    seconds = {name: cost.seconds for name, cost in costs.items()}
    assert seconds["sft"] == 0.0 and seconds["seqkd"] and seconds["logits"]
    assert results.shared_s is not None and results.shared_s > seconds["seqkd"] + seconds["logits"]
    assert results.arms[1].costs[0].answers_s == seconds["seqkd"]
    difference = by_name["logits"].against_sft
    assert (difference.rows, difference.seeds) == (20, 2)
    assert len(results.samples) == 6
    assert set(results.samples[0].answers) == {"undistilled", "teacher", "sft", "seqkd", "logits"}
    written = read_record(StudyResults, Path(study_recipe.output) / "results.json")
    assert written == results


def test_the_record_of_a_run_explains_it(finished: tuple[StudyRecipe, StudyResults]) -> None:
    folder = Path(finished[0].output) / "runs" / "logits" / "seed1"
    record = read_record(RunRecord, folder / "run.json")
    assert record.contract is not None and record.contract.verdict == "identical"
    assert record.teacher is not None and len(record.teacher.weights_sha256) == 64
    assert record.config["training"]["steps"] == 4
    assert record.cost.student_tokens > record.cost.supervised_tokens > 0
    # the teacher read the rows once, for all runs
    assert (record.teacher_signals, record.cost.teacher_tokens) == ("cached", 0)
    assert [use.kinds for use in record.caches] == [("full",), ("full",)]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert set(lines[1]["terms"]) == {"cross_entropy", "token_divergence"}
    # what the doctor reads of a run
    series = read_runs(folder).runs[0].series
    assert set(series.steps[0].cosines) == {"cross_entropy ~ token_divergence"}
    assert all(point.confidence and point.calibration_error is not None for point in series.held_out)
    # over all held-out rows, where the curve's points have the first few
    assert record.evaluation.value("confidence") == pytest.approx(series.held_out[-1].confidence, rel=0.1)
    assert not (folder / "checkpoints").exists()


def test_a_second_call_redoes_no_finished_run(finished: tuple[StudyRecipe, StudyResults]) -> None:
    study_recipe, first = finished
    folder = Path(study_recipe.output)
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("run.json")}
    second = _study(study_recipe).run()
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("run.json")} == stamps
    assert first == second


def test_an_interrupted_study_resumes_to_the_same_numbers(
    finished: tuple[StudyRecipe, StudyResults], tmp_path: Path
) -> None:
    study_recipe, whole = finished
    copy = study_recipe.model_copy(update={"output": str(tmp_path / "copy")})
    _study(copy).run()
    for lost in ("logits/seed0", "seqkd/seed1"):  # as after a kill: some runs are missing, and the results
        shutil.rmtree(tmp_path / "copy" / "runs" / lost)
    (tmp_path / "copy" / "results.json").unlink()
    resumed = _study(copy).run()
    for a, b in zip(whole.arms, resumed.arms, strict=True):
        assert a.evaluations == b.evaluations
        assert a.against_sft == b.against_sft


def test_two_processes_give_the_numbers_of_one(study_recipe: StudyRecipe, tmp_path: Path) -> None:
    changes = {"arms": study_recipe.arms[:2], "seeds": (0,)}
    torch.set_num_threads(1)  # as in the worker processes: sums depend on the number of threads
    one = _study(study_recipe, **changes).run()
    two = _study(study_recipe, **changes, workers=2, output=str(tmp_path / "two")).run()
    for a, b in zip(one.arms, two.arms, strict=True):
        for x, y in zip(a.evaluations, b.evaluations, strict=True):
            assert x.nats_per_token == pytest.approx(y.nats_per_token, abs=1e-5)


def test_a_folder_of_another_study_is_refused_with_the_difference(study_recipe: StudyRecipe) -> None:
    _study(study_recipe, arms=study_recipe.arms[:1], seeds=(0,)).run()
    with pytest.raises(ConfigError, match=r"seeds: there \[0\], now \[1\]"):
        _study(study_recipe, arms=study_recipe.arms[:1], seeds=(1,)).run()


def test_what_decides_no_figure_makes_no_other_study(
    study_recipe: StudyRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder moved, written another way, other workers, another title, more checkpoints."""
    only = {"arms": study_recipe.arms[:1], "seeds": (0,)}
    first = _study(study_recipe, **only).run()
    record = (Path(study_recipe.output) / "runs" / "sft" / "seed0" / "run.json").read_bytes()
    Path(study_recipe.output).rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    training = study_recipe.training.model_copy(update={"checkpoint_every": 1, "checkpoint_minutes": 1.0})
    for output in ("moved", "./moved", str(tmp_path / "moved")):
        again = _study(study_recipe, **only, output=output, workers=2, title="x", training=training).run()
        assert again.arms == first.arms
    assert (tmp_path / "moved" / "runs" / "sft" / "seed0" / "run.json").read_bytes() == record
    changed = study_recipe.training.model_copy(update={"learning_rate": 0.5})
    with pytest.raises(ConfigError, match=r"training\.learning_rate: there 0\.001, now 0\.5"):
        _study(study_recipe, **only, output="moved", training=changed).run()


def test_a_folder_that_is_not_ours_is_left_alone(study_recipe: StudyRecipe) -> None:
    folder = Path(study_recipe.output)
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="not empty"):
        _study(study_recipe).run()
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


def test_arms_of_one_seed_start_from_the_same_weights_and_rows(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    """With the divergence's weight near nothing, logit KD must end where SFT ends."""
    sft = _run(tiny_world, tmp_path / "sft", method="sft")
    near = [{"kind": "cross_entropy"}, {"kind": "token_divergence", "weight": 1e-9}]
    logits = _run(tiny_world, tmp_path / "logits", method="logits", terms=near)
    execute(sft)
    execute(logits)
    torch.testing.assert_close(_weights(tmp_path / "logits"), _weights(tmp_path / "sft"), atol=1e-5, rtol=0)


def test_a_mismatched_pair_is_refused_before_any_weight_is_loaded(
    tiny_world: dict[str, Any], stranger: str, tmp_path: Path
) -> None:
    blind = tmp_path / "no-weights"
    shutil.copytree(stranger, blind)
    save_file({"nothing": torch.zeros(1)}, blind / "model.safetensors")  # loading it would be an error
    recipe = _run(tiny_world, tmp_path / "run", method="logits", teacher={"path": str(blind)})
    with pytest.raises(TokenizerMismatch) as error:
        execute(recipe)
    assert "seqkd" in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_study_with_one_refused_arm_does_nothing_at_all(
    study_recipe: StudyRecipe, tiny_world: dict[str, Any], stranger: str
) -> None:
    values = {**tiny_world, "arms": ["sft", {"name": "bad", "method": "logits", "teacher": {"path": stranger}}]}
    with pytest.raises(TokenizerMismatch):
        Study(StudyRecipe(**values, output=study_recipe.output), reproduce="x").run()
    assert not Path(study_recipe.output).exists()


def test_a_demonstration_is_marked_in_every_record(tiny_world: dict[str, Any], stranger: str, tmp_path: Path) -> None:
    recipe = _run(tiny_world, tmp_path / "run", method="logits", teacher={"path": stranger})
    record = execute(load_inputs(recipe).showing_mismatch())
    assert record.shown_failure is not None and "--demonstrate-mismatch" in record.shown_failure
    assert record.evaluation.value("kl_from_teacher") is None
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["shown_failure"] == record.shown_failure


def test_batches_of_its_own_are_for_a_shown_failure_alone(study_recipe: StudyRecipe) -> None:
    with pytest.raises(ConfigError, match=r"(?s)no shown_failure.*sft"):
        Study(study_recipe, reproduce="x", collators={"sft": PromptPositions})


def test_the_flag_alone_marks_nothing_on_a_sound_pair(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    record = execute(load_inputs(_run(tiny_world, tmp_path / "run", method="logits")).showing_mismatch())
    assert record.shown_failure is None


def test_sequence_level_kd_works_across_tokenizers(tiny_world: dict[str, Any], stranger: str, tmp_path: Path) -> None:
    record = execute(_run(tiny_world, tmp_path / "run", method="seqkd", teacher={"path": stranger}))
    assert record.answers is not None and record.answers.generated == 60
    assert record.train_counts.kept > 0
    assert record.contract is not None and record.contract.verdict == "different"


def test_answers_of_another_teacher_are_not_taken_for_this_one(
    tiny_world: dict[str, Any], stranger: str, tmp_path: Path
) -> None:
    answers = tmp_path / "answers"
    execute(_run(tiny_world, tmp_path / "a", method="seqkd"), answers_folder=answers)
    with pytest.raises(CacheMismatch):
        execute(_run(tiny_world, tmp_path / "b", method="seqkd", teacher={"path": stranger}), answers_folder=answers)


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_model_folder_without_weights_is_refused_by_name(
    tiny_world: dict[str, Any], tmp_path: Path, role: str
) -> None:
    empty = tmp_path / "weightless"
    shutil.copytree(tiny_world[role]["path"], empty)
    (empty / "model.safetensors").unlink()
    recipe = _run(tiny_world, tmp_path / "run", method="logits", **{role: {"path": str(empty)}})
    with pytest.raises(TeacherError if role == "teacher" else ConfigError, match=f"{role}'s folder has no weights"):
        execute(recipe)


def test_weights_that_lack_a_parameter_are_refused(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    """transformers draws missing parameters at random and goes on."""
    short = tmp_path / "short"
    shutil.copytree(tiny_world["teacher"]["path"], short)
    tensors = load_file(short / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, short / "model.safetensors", metadata={"format": "pt"})
    recipe = _run(tiny_world, tmp_path / "run", method="logits", teacher={"path": str(short)})
    with pytest.raises(TeacherError, match=r"(?s)left random.*model\.norm\.weight"):
        execute(recipe)


def test_a_teacher_that_says_nan_stops_the_run_and_is_named(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    sick = tmp_path / "sick"
    shutil.copytree(tiny_world["teacher"]["path"], sick)
    tensors = load_file(sick / "model.safetensors")
    tensors["model.norm.weight"][0] = torch.nan
    save_file(tensors, sick / "model.safetensors", metadata={"format": "pt"})
    recipe = _run(tiny_world, tmp_path / "run", method="logits", teacher={"path": str(sick)})
    with pytest.raises(NumericsError, match=r"(?s)step 1.*train\.jsonl:\d+.*the teacher's logits are NaN"):
        execute(recipe)


def test_max_tokens_beyond_a_context_is_refused(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    data = {**tiny_world["data"], "max_tokens": 256}
    with pytest.raises(ConfigError, match=r"(?s)student's context.*context 128"):
        execute(_run(tiny_world, tmp_path / "run", data=data))


def test_a_file_that_changed_since_is_noticed(study_recipe: StudyRecipe, tmp_path: Path) -> None:
    changing = tmp_path / "train.jsonl"
    shutil.copy(study_recipe.data.train.path, changing)
    data = study_recipe.data.model_copy(
        update={"train": study_recipe.data.train.model_copy(update={"path": str(changing)})}
    )
    _study(study_recipe, arms=study_recipe.arms[:1], seeds=(0,), data=data).run()
    changing.write_text("".join(changing.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ConfigError, match=r"(?s)files that have changed.*fingerprints\.sft\.train_rows"):
        _study(study_recipe, arms=study_recipe.arms[:1], seeds=(0,), data=data).run()


def test_a_teacher_spread_by_a_device_map_says_the_same(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    plain = execute(_run(tiny_world, tmp_path / "plain", method="logits"))
    spread = {**tiny_world["teacher"], "device_map": "auto"}
    mapped = execute(_run(tiny_world, tmp_path / "mapped", method="logits", teacher=spread))
    assert mapped.evaluation == plain.evaluation


def test_arms_with_different_teachers_are_judged_on_the_same_rows(
    study_recipe: StudyRecipe, tiny_world: dict[str, Any], stranger: str
) -> None:
    """A row that is too long for one teacher's tokenizer is left out for all arms."""
    arms = ["sft", {"name": "other", "method": "seqkd", "teacher": {"path": stranger}}]
    evaluation = {**tiny_world["evaluation"], "rows": 30, "generate_rows": 0}
    data = {**tiny_world["data"], "max_tokens": 28}
    values = {**tiny_world, "arms": arms, "seeds": [0], "data": data, "evaluation": evaluation}
    recipe = StudyRecipe(**values, output=study_recipe.output)
    alone = [load_inputs(recipe.run_recipe(arm, 0, "unused")).held_out_keys for arm in recipe.arms]
    assert alone[0] != alone[1]  # each pair by itself would be judged on other rows
    results = Study(recipe, reproduce="x").run()
    common = alone[0] & alone[1]
    for arm in ("sft", "other"):
        lines = read_held_out(Path(recipe.output) / "runs" / arm / "seed0" / "held_out.jsonl")
        assert {line["key"] for line in lines} == common
    assert (results.held_out_counts.kept, results.held_out_counts.left_out) == (len(common), 30 - len(common))

"""A study whose runs read what the teacher said once gives the figures of one whose runs ask it at every step."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import fsspec
import pytest

from distillab.config.run import RunRecipe
from distillab.config.study import StudyRecipe
from distillab.demo.failures import PromptPositions
from distillab.errors import CacheCorrupt, CacheMismatch, StorageError, TeacherError
from distillab.records import RunRecord, StudyResults, read_record
from distillab.runs.run import execute
from distillab.runs.signals import bytes_before_loading
from distillab.study.study import Study
from distillab.teachers.stored.location import Part

ON_ANSWERS = {"name": "answers", "method": "logits", "answers": "teacher"}
ARMS = ["sft", "seqkd", "logits", "hidden_states", "attention", ON_ANSWERS]


def _study(values: dict[str, Any], output: Path, **changes: Any) -> StudyRecipe:
    evaluation = {**values["evaluation"], "generate_rows": 2}
    return StudyRecipe(
        **{**values, "evaluation": evaluation, "arms": ARMS, "seeds": [0], **changes}, output=str(output)
    )


def _run(values: dict[str, Any], output: Path, **changes: Any) -> RunRecipe:
    base = {key: value for key, value in values.items() if key != "seeds"}
    evaluation = {**values["evaluation"], "generate_rows": 0}
    return RunRecipe(**{**base, "evaluation": evaluation, "method": "logits", "output": str(output), **changes})


@pytest.fixture(scope="module")
def cached(tiny_world: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished study with caches."""
    output = tmp_path_factory.mktemp("cached") / "study"
    Study(_study(tiny_world, output), reproduce="x").run()
    return output


def _location(study: Path) -> Path:
    """The cache that the arms which train on the data set's rows share."""
    found = read_record(RunRecord, study / "runs" / "logits" / "seed0" / "run.json").caches
    return Path(next(use.path for use in found if use.source == "the training rows"))


def test_the_figures_are_those_of_asking_the_teacher(tiny_world: dict[str, Any], cached: Path, tmp_path: Path) -> None:
    online = Study(_study(tiny_world, tmp_path / "online", teacher_signals="online"), reproduce="x").run()
    assert online.caches == ()
    results = read_record(StudyResults, cached / "results.json")
    for one, other in zip(results.arms, online.arms, strict=True):
        here, there = one.evaluations[0], other.evaluations[0]
        # of its own text a run from a cache knows nothing: the study measures that when all are finished
        assert here.value("own_acceptance") is not None
        for metric in there.metrics:
            assert here.value(metric.name) == pytest.approx(metric.value, abs=1e-5), (one.name, metric.name)
        nats = [[point.held_out_nats_per_token for point in arm.curves[0]] for arm in (one, other)]
        assert nats[0] == pytest.approx(nats[1], abs=1e-5)
    written = sorted(path.relative_to(cached / "own_text").as_posix() for path in (cached / "own_text").rglob("*.json"))
    assert written == sorted(f"{arm.name}/seed0.json" for arm in results.arms)
    assert not (tmp_path / "online" / "own_text").exists()
    for one_point, other_point in zip(results.baselines, online.baselines, strict=True):
        kl = [point.evaluation.value("kl_from_teacher") for point in (one_point, other_point)]
        assert kl[0] == pytest.approx(kl[1], abs=1e-5)


def test_what_was_read_is_recorded(cached: Path) -> None:
    results = read_record(StudyResults, cached / "results.json")
    kinds = {Path(use.path).name: use.kinds for use in results.caches}
    assert kinds.pop("held_out") == ("full",)
    assert kinds.pop("answers") == ("full",)
    assert list(kinds.values()) == [("full", "hidden_states", "attention_inputs")]
    assert all(use.teacher_s is not None and use.stored_bytes for use in results.caches)
    costs = {arm.name: arm.costs[0].teacher_tokens for arm in results.arms}
    assert costs["logits"] == costs["hidden_states"] == costs["sft"] == 0
    assert costs["seqkd"] == costs["answers"] > 0  # the answers' own
    signals = {
        arm.name: read_record(RunRecord, cached / "runs" / arm.name / "seed0" / "run.json").teacher_signals
        for arm in results.arms
    }
    assert signals == {**dict.fromkeys(("logits", "hidden_states", "attention", "answers"), "cached")} | dict.fromkeys(
        ("sft", "seqkd"), "none"
    )


def test_a_run_from_a_cache_loads_no_teacher(tiny_world: dict[str, Any], cached: Path, tmp_path: Path) -> None:
    """The teacher's weights are spoilt behind the study's back, before one of its runs is made again."""
    values = dict(tiny_world)
    output = tmp_path / "study"
    teacher = tmp_path / "teacher"
    shutil.copytree(tiny_world["teacher"]["path"], teacher)
    values["teacher"] = {"path": str(teacher)}
    study = Study(_study(values, output, arms=["sft", "logits"]), reproduce="x")
    whole = study.run()
    before = (teacher / "model.safetensors").stat()
    content = (teacher / "model.safetensors").read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")  # what is looked at before any work stays as it is
    (teacher / "model.safetensors").write_bytes(content[:header] + b"\0" * (len(content) - header))
    os.utime(teacher / "model.safetensors", ns=(before.st_atime_ns, before.st_mtime_ns))
    for arm in ("sft", "logits"):
        shutil.rmtree(output / "runs" / arm)
    again = Study(_study(values, output, arms=["sft", "logits"]), reproduce="x").run()
    assert [arm.evaluations for arm in again.arms] == [arm.evaluations for arm in whole.arms]


def test_a_second_call_makes_no_cache_again(tiny_world: dict[str, Any], cached: Path) -> None:
    stamps = {path: path.stat().st_mtime_ns for path in (cached / "cache").rglob("*") if path.is_file()}
    Study(_study(tiny_world, cached), reproduce="x").run()
    assert {path: path.stat().st_mtime_ns for path in (cached / "cache").rglob("*") if path.is_file()} == stamps


def test_a_cache_takes_the_place_of_a_path(tiny_world: dict[str, Any], cached: Path, tmp_path: Path) -> None:
    live = execute(_run(tiny_world, tmp_path / "live"))
    stored = execute(_run(tiny_world, tmp_path / "stored", teacher={"cache": str(_location(cached))}))
    assert (live.teacher_signals, stored.teacher_signals) == ("online", "cached")
    here, there = live.evaluation, stored.evaluation
    for name in ("nats_per_token", "kl_from_teacher", "top1_agreement"):
        assert here.value(name) == pytest.approx(there.value(name), abs=1e-5)
    assert stored.contract is not None
    assert live.contract is not None
    assert stored.contract.verdict == live.contract.verdict == "identical"
    assert stored.contract.teacher.fingerprint == live.contract.teacher.fingerprint
    assert stored.teacher == live.teacher
    assert stored.cost.teacher_tokens == 0 < live.cost.teacher_tokens
    assert stored.notes == ()


def test_without_held_out_rows_there_is_no_kl_and_it_is_said(
    tiny_world: dict[str, Any], cached: Path, tmp_path: Path
) -> None:
    location = tmp_path / "cache"
    shutil.copytree(_location(cached), location, ignore=shutil.ignore_patterns("held_out"))
    record = execute(_run(tiny_world, tmp_path / "run", teacher={"cache": str(location)}))
    assert record.evaluation.value("kl_from_teacher") is None
    assert record.evaluation.value("top1_agreement") is None
    assert len(record.notes) == 1
    assert "KL from the teacher" in record.notes[0]


def test_with_weights_beside_the_cache_kl_is_measured_by_them(
    tiny_world: dict[str, Any], cached: Path, tmp_path: Path
) -> None:
    location = tmp_path / "cache"
    shutil.copytree(_location(cached), location, ignore=shutil.ignore_patterns("held_out"))
    both = {"path": tiny_world["teacher"]["path"], "cache": str(location)}
    record = execute(_run(tiny_world, tmp_path / "run", teacher=both))
    assert record.teacher_signals == "cached"
    assert record.evaluation.value("kl_from_teacher") is not None


def test_another_teacher_than_the_recorded_one_is_refused_with_both_sides(
    tiny_world: dict[str, Any], cached: Path, tmp_path: Path
) -> None:
    both = {"path": tiny_world["student"]["path"], "cache": str(_location(cached))}
    with pytest.raises(CacheMismatch, match=r"(?s)another teacher.*weights: in the cache \w+; teacher.path \w+"):
        execute(_run(tiny_world, tmp_path / "run", teacher=both))


def test_another_student_tokenizer_is_refused(
    tiny_world: dict[str, Any], stranger: str, cached: Path, tmp_path: Path
) -> None:
    teacher = {"cache": str(_location(cached))}
    recipe = _run(tiny_world, tmp_path / "run", student={"path": stranger}, teacher=teacher, shown_failure="x")
    with pytest.raises(CacheMismatch, match="tokenizer"):
        execute(recipe)


def test_other_rows_are_refused_before_training(tiny_world: dict[str, Any], cached: Path, tmp_path: Path) -> None:
    data = {**tiny_world["data"], "train": {"path": tiny_world["data"]["held_out"]["path"]}}
    with pytest.raises(CacheMismatch, match="the training rows"):
        execute(_run(tiny_world, tmp_path / "run", data=data, teacher={"cache": str(_location(cached))}))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_answers_that_nobody_has_given_need_weights(tiny_world: dict[str, Any], cached: Path, tmp_path: Path) -> None:
    recipe = _run(tiny_world, tmp_path / "run", method="seqkd", teacher={"cache": str(_location(cached))})
    with pytest.raises((TeacherError, CacheMismatch), match=r"path"):
        execute(recipe)


def test_signals_that_are_not_there_are_refused(tiny_world: dict[str, Any], cached: Path, tmp_path: Path) -> None:
    location = tmp_path / "cache"
    shutil.copytree(_location(cached), location)
    (location / "identity.json").unlink()
    with pytest.raises(CacheMismatch, match=r"(?s)holds none.*the cache holds: held_out"):
        execute(_run(tiny_world, tmp_path / "run", teacher={"cache": str(location)}))


def test_a_cache_without_its_tokenizer_says_what_to_do(
    tiny_world: dict[str, Any], cached: Path, tmp_path: Path
) -> None:
    location = tmp_path / "cache"
    shutil.copytree(_location(cached), location, ignore=shutil.ignore_patterns("tokenizer"))
    with pytest.raises(CacheCorrupt, match="no tokenizer of its teacher"):
        execute(_run(tiny_world, tmp_path / "run", teacher={"cache": str(location)}))


def test_a_folder_that_is_no_cache_is_refused(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(CacheMismatch, match="no teacher cache"):
        execute(_run(tiny_world, tmp_path / "run", teacher={"cache": str(tmp_path)}))


def test_a_study_reads_a_cache_that_was_made_before(tiny_world: dict[str, Any], cached: Path, tmp_path: Path) -> None:
    teacher = {**tiny_world["teacher"], "cache": str(_location(cached))}
    recipe = _study(tiny_world, tmp_path / "study", arms=["sft", "logits"], teacher=teacher)
    results = Study(recipe, reproduce="x").run()
    assert not (tmp_path / "study" / "cache").exists()
    assert {use.path for use in results.caches} == {str(_location(cached)), str(_location(cached) / "held_out")}
    before = read_record(StudyResults, cached / "results.json")
    assert {arm.name: arm.evaluations for arm in results.arms}.items() <= {
        arm.name: arm.evaluations for arm in before.arms
    }.items()


def test_an_arm_that_cannot_be_cached_asks_the_teacher(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    maps = {"name": "maps", "method": "logits", "terms": [{"kind": "cross_entropy"}, {"kind": "attention_maps"}]}
    output = tmp_path / "study"
    results = Study(_study(tiny_world, output, arms=["sft", maps, "logits"]), reproduce="x").run()
    folders = {name: output / "runs" / name / "seed0" / "run.json" for name in ("maps", "logits")}
    signals = {name: read_record(RunRecord, path).teacher_signals for name, path in folders.items()}
    assert signals == {"maps": "online", "logits": "cached"}
    assert {use.kinds for use in results.caches} == {("full",)}


def test_a_planted_arm_that_reads_the_teacher_asks_it(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    """Its batches are not those of any recorded row."""
    output = tmp_path / "study"
    arms = ["sft", {"name": "broken", "method": "logits", "shown_failure": "a failure"}]
    Study(_study(tiny_world, output, arms=arms), reproduce="x", collators={"broken": PromptPositions}).run()
    record = read_record(RunRecord, output / "runs" / "broken" / "seed0" / "run.json")
    assert (record.teacher_signals, record.shown_failure) == ("online", "a failure")


def test_a_demonstrated_mismatch_is_recorded_by_index(
    tiny_world: dict[str, Any], stranger: str, tmp_path: Path
) -> None:
    wrong = {"name": "wrong", "method": "logits", "teacher": {"path": stranger}}
    changes = {"arms": ["sft", wrong]}
    figures = []
    for signals in ("cached", "online"):
        recipe = _study(tiny_world, tmp_path / signals, **changes, teacher_signals=signals)
        results = Study(recipe, reproduce="x").showing_mismatches().run()
        figures.append(results.arms[1].evaluations[0].nats_per_token)
    assert figures[0] == pytest.approx(figures[1], abs=1e-5)


def test_caches_that_do_not_fit_are_refused_before_anything_is_made(
    tiny_world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(1, 1, 1000))
    with pytest.raises(StorageError, match=r"(?s)the teachers' signals.*teacher_signals: online"):
        Study(_study(tiny_world, tmp_path / "study"), reproduce="x").run()
    assert not (tmp_path / "study" / "baselines").exists()


def test_the_estimate_is_what_is_written(tiny_world: dict[str, Any], cached: Path) -> None:
    study = Study(_study(tiny_world, cached), reproduce="x")
    arm = next(arm for arm in study.recipe.arms if arm.name == "attention")
    parts: tuple[Part, ...] = ("train", "held_out")
    for part in parts:
        recording = study.caches.job(arm, part)
        estimated = bytes_before_loading(recording)
        written = sum(file.stat().st_size for file in recording.folder.glob("shards/*"))
        written += (recording.folder / "head.safetensors").stat().st_size
        assert estimated == pytest.approx(written, rel=0.02)


def test_a_cache_may_be_far_away(tiny_world: dict[str, Any], cached: Path, tmp_path: Path) -> None:
    """Its tokenizer comes over the same way as its rows."""
    far = fsspec.filesystem("memory")
    far.put(str(_location(cached)), "/far", recursive=True)
    evaluation = {**tiny_world["evaluation"], "generate_rows": 2}
    try:
        record = execute(_run(tiny_world, tmp_path / "run", teacher={"cache": "memory://far"}, evaluation=evaluation))
    finally:
        far.rm("/far", recursive=True)
    before = read_record(RunRecord, cached / "runs" / "logits" / "seed0" / "run.json")
    assert record.evaluation == before.evaluation
    assert record.contract is not None
    assert record.contract.teacher.name == "teacher"


def test_answers_come_from_a_cache_of_text_alone(tiny_world: dict[str, Any], cached: Path, tmp_path: Path) -> None:
    location = tmp_path / "cache"
    shutil.copytree(next((cached / "answers").iterdir()), location / "text")
    shutil.copytree(_location(cached) / "tokenizer", location / "tokenizer")
    record = execute(_run(tiny_world, tmp_path / "run", method="seqkd", teacher={"cache": str(location)}))
    before = read_record(RunRecord, cached / "runs" / "seqkd" / "seed0" / "run.json")
    assert record.evaluation.nats_per_token == before.evaluation.nats_per_token
    assert record.teacher == before.teacher
    assert record.answers is not None
    assert record.answers.path == str(location / "text")


def test_kinds_may_be_chosen(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    arms = ["sft", {"name": "top", "method": "logits", "terms": [{"kind": "top_k_divergence", "k": 8}]}]
    chosen = {"kinds": [{"kind": "top_k", "k": 16, "values": "companded8"}], "folder": str(tmp_path / "elsewhere")}
    results = Study(_study(tiny_world, tmp_path / "study", arms=arms, cache=chosen), reproduce="x").run()
    kinds = {use.kinds for use in results.caches}
    assert kinds == {("full",), ("top_k",)}
    assert all(use.path.startswith(str(tmp_path / "elsewhere")) for use in results.caches)


def test_kinds_that_do_not_serve_an_arm_are_refused(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    recipe = _study(
        tiny_world, tmp_path / "study", arms=["sft", "logits"], cache={"kinds": [{"kind": "top_k", "k": 4}]}
    )
    with pytest.raises(TeacherError, match=r"(?s)needed: the whole distribution.*stored: the 4 most likely"):
        Study(recipe, reproduce="x").run()


def test_a_cache_built_before_its_run_does_not_stand_in_the_way(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "run" / "cache").mkdir(parents=True)
    assert execute(_run(tiny_world, tmp_path / "run", method="sft")).teacher_signals == "none"

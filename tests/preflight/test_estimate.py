"""What a recipe will take of a device, from configurations alone, beside what it takes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tests.quantised import NF4
from tests.tiny_world import save_tiny
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from distillab.cli.main import app
from distillab.config.run import RunRecipe
from distillab.config.study import StudyRecipe
from distillab.errors import ConfigError, DistillabError
from distillab.preflight.devices import DEVICES, device_named
from distillab.preflight.estimate import ArmCost, estimate
from distillab.preflight.estimated import Estimate, longest_first
from distillab.preflight.machine import weights_of
from distillab.preflight.memory import RunMemory, run_memory, unloaded_memory
from distillab.runs.budget import passes
from distillab.runs.inputs import load_inputs
from distillab.runs.student import load_student

# PEFT reads it
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
CPU = torch.device("cpu")
LORA = {"kind": "lora", "rank": 4}


def _run(values: dict[str, Any], output: Path, **changes: Any) -> RunRecipe:
    return RunRecipe(**{key: value for key, value in values.items() if key != "seeds"} | changes, output=str(output))


def _study(values: dict[str, Any], output: Path, **changes: Any) -> StudyRecipe:
    return StudyRecipe(**{**values, "arms": ["sft", "seqkd", "logits"], **changes}, output=str(output))


@pytest.mark.parametrize("method", ["sft", "logits", "white_box"])
@pytest.mark.parametrize("adapter", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_model_without_memory_is_counted_as_a_loaded_one(
    tiny_world: dict[str, Any], tmp_path: Path, method: str, adapter: Any, precision: str
) -> None:
    student = {**tiny_world["student"], "adapter": adapter}
    training = {**tiny_world["training"], "precision": precision}
    inputs = load_inputs(_run(tiny_world, tmp_path, method=method, student=student, training=training))
    weights = weights_of(inputs, teacher=True)
    loaded = run_memory(inputs, load_student(inputs), weights, process=7, device=CPU)
    assert unloaded_memory(inputs, process=7, device=CPU, cached=False) == loaded


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_is_counted_in_one_of_its_processes(tiny_world: dict[str, Any], tmp_path: Path, stage: int) -> None:
    """With 4 processes; `python -m bench.memory --only ZeRO` measures two."""
    plain = _run(tiny_world, tmp_path, method="sft")
    training = {**tiny_world["training"], "deepspeed": stage, "microbatch_size": 1}
    divided = _run(tiny_world, tmp_path, method="sft", training=training)
    (one,), (four,) = (estimate(recipe, DEVICES["l4"], devices=n).runs for recipe, n in ((plain, 1), (divided, 4)))
    whole, part = one.memory.student, -(-one.memory.student // 4)
    held = (four.memory.student, four.memory.gradients, four.memory.optimizer, four.memory.gathered)
    assert held == ((whole, whole + part, 3 * part, 0) if stage == 2 else (part, 2 * whole + part, 2 * part, whole))
    assert (one.processes, four.processes) == (1, 4) and four.training == pytest.approx(one.training / 4)
    with pytest.raises(ConfigError, match=r"(?s)there is one.*--gpus N"):
        estimate(divided, DEVICES["l4"])
    with pytest.raises(ConfigError, match=r"(?s)each run of a study has one process"):
        estimate(
            _study(tiny_world, tmp_path, training={**tiny_world["training"], "deepspeed": stage}),
            DEVICES["l4"],
            devices=4,
        )


@pytest.mark.parametrize("quantization", [None, NF4])
def test_the_weights_of_an_adapted_student(tiny_world: dict[str, Any], tmp_path: Path, quantization: Any) -> None:
    student = {**tiny_world["student"], "adapter": LORA, "quantization": quantization}
    inputs = load_inputs(_run(tiny_world, tmp_path, method="sft", student=student))
    found, parameters = weights_of(inputs, teacher=False), list(load_student(inputs).parameters())
    scales = sum(p.quant_state.absmax.nbytes for p in parameters if hasattr(p, "quant_state"))
    assert found.student == sum(p.numel() * p.element_size() for p in parameters) + scales
    assert found.trained == sum(p.numel() * 4 for p in parameters if p.requires_grad)
    assert found.learning == found.student + 3 * found.trained and found.checkpoint == 3 * found.trained


@pytest.mark.parametrize("adapter", [None, LORA], ids=["full", "lora"])
def test_operations_are_those_that_torch_counts(tiny_world: dict[str, Any], tmp_path: Path, adapter: Any) -> None:
    inputs = load_inputs(
        _run(tiny_world, tmp_path, method="sft", student={**tiny_world["student"], "adapter": adapter})
    )
    cost = ArmCost(Estimate(DEVICES["h200"]), inputs, "sft", process=0, cached=False)
    model = load_student(inputs).train()
    ids = torch.arange(6)[None]
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids).loss.backward()
    counts = counter.get_flop_counts()["Global"]
    products = sum(count for op, count in counts.items() if "attention" not in str(op))
    assert cost.student.forward(6, 6) * passes(inputs.recipe) == pytest.approx(products, rel=0.06)


def test_a_study_is_estimated_from_configurations_alone(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    folders = {}
    for role in ("student", "teacher"):
        folders[role] = {"path": str(tmp_path / role)}
        shutil.copytree(tiny_world[role]["path"], tmp_path / role, ignore=shutil.ignore_patterns("*.safetensors"))
    values = {**tiny_world, **folders}
    cached = estimate(_study(values, tmp_path / "study"), DEVICES["l4"])
    online = estimate(_study(values, tmp_path / "study", teacher_signals="online", workers=2), DEVICES["l4"])
    correction = {"steps": 2, "learning_rate": 1e-5}
    corrected = estimate(_study(values, tmp_path / "study", teacher_correction=correction), DEVICES["l4"])
    assert not (tmp_path / "study").exists()
    of = {run.name: run for run in cached.runs}
    assert list(of) == ["sft", "seqkd", "logits"] and all(run.runs == 2 for run in cached.runs)
    rows = load_inputs(_run(tiny_world, tmp_path / "run")).train.rows
    assert of["logits"].student_tokens == pytest.approx(4 * 8 * sum(map(len, rows)) / len(rows))
    assert of["logits"].memory.teacher == 0 and of["logits"].memory.process == 0
    live = next(run for run in online.runs if run.name == "logits")
    assert (of["logits"].teacher_tokens, live.teacher_tokens) == (0, live.student_tokens)
    assert live.memory.teacher > 0 and live.training > of["logits"].training
    assert cached.cache_bytes > online.cache_bytes == 0
    assert (cached.together, online.together) == (1, 2)
    assert online.memory_bytes == 2 * max(run.memory.total for run in online.runs)
    assert cached.disk["students"] == 6 * of["sft"].weights.student
    parts = {name.split(" of ")[0] for name in cached.shared}
    assert parts == {"answers", "evaluation", "signals"} and all(cached.shared.values())
    (extra,) = [run for run in corrected.runs if run.name not in of]
    assert extra.runs == 1 and extra.student_tokens == pytest.approx(of["sft"].student_tokens / 2)
    assert corrected.seconds > cached.seconds


def test_on_several_devices_runs_go_side_by_side_and_caches_are_divided(
    tiny_world: dict[str, Any], tmp_path: Path
) -> None:
    assert longest_first([5, 4, 3, 3, 3], 2) == 10  # 5 + 3 and 4 + 3 + 3
    one, four = (
        estimate(_study(tiny_world, tmp_path / "study", workers=6), DEVICES["l4"], devices=devices)
        for devices in (1, 4)
    )
    assert one.side_by_side == pytest.approx(one.seconds) == pytest.approx(four.seconds)
    assert one.seconds / 4 < four.side_by_side < one.seconds / 2
    assert (one.together, four.together) == (6, 2)
    (signals,) = four.signals.values()
    rows = load_inputs(_run(tiny_world, tmp_path / "run")).train.rows
    assert signals.tokens == sum(map(len, rows))
    hidden = json.loads((Path(tiny_world["teacher"]["path"]) / "config.json").read_text())["hidden_size"]
    assert signals.once == 400 * (hidden + 1) * 4  # its head and biases in float32
    assert signals.seconds["h200"] / signals.seconds["l4"] == pytest.approx(
        DEVICES["l4"].float32 / DEVICES["h200"].float32
    )
    logits = next(run for run in four.runs if run.name == "logits")
    assert signals.reading == pytest.approx(signals.bytes / signals.tokens * logits.student_tokens / logits.training)


def test_a_divided_run_is_estimated_for_one_of_its_processes(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    path = str(save_tiny(tmp_path / "model", 0, Path(tiny_world["student"]["path"]), layers=4))
    training = {**tiny_world["training"], "microbatch_size": 1}  # two a step, or more

    def memory(of_student: Any, of_teacher: Any) -> RunMemory:
        student, teacher = {"path": path, **of_student}, {"path": path, **of_teacher}
        recipe = _run(tiny_world, tmp_path, method="logits", student=student, teacher=teacher, training=training)
        return unloaded_memory(load_inputs(recipe, weights=False), process=7, device=CPU, cached=False)

    whole, parts = memory({}, {}), memory({"parallel": {"fsdp": 4}}, {"parallel": {"tensor": 4}})
    for name in ("student", "gradients", "optimizer"):
        assert getattr(parts, name) == getattr(whole, name) / 4
    model = load_student(load_inputs(_run(tiny_world, tmp_path, method="sft", student={"path": path})))
    head, block = (
        sum(4 * p.numel() for p in part.parameters()) for part in (model.lm_head, cast(Any, model).model.layers[0])
    )
    assert parts.gathered == pytest.approx(head + 3 * block, rel=0.01)
    assert parts.teacher == pytest.approx(whole.teacher / 4 + head, rel=0.01)
    assert (parts.activations, parts.logits, whole.gathered) == (whole.activations, whole.logits, 0)


def test_two_tokenizers(tiny_world: dict[str, Any], tmp_path: Path, stranger: str) -> None:
    recipe = _run(tiny_world, tmp_path, method="span_likelihood", teacher={"path": stranger})
    (run,) = estimate(recipe, DEVICES["l4"]).runs
    assert run.memory.teacher > 0 and run.memory.teacher_activations > 0 and run.teacher_tokens > 0


def test_devices_by_name() -> None:
    assert device_named("cpu", memory_bytes=5).float32 > 1e8
    assert device_named("h200", memory_bytes=5) is DEVICES["h200"]
    with pytest.raises(ConfigError, match="h200"):
        device_named("h20", memory_bytes=5)


def test_answers_that_the_student_writes_take_time(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    def seconds(tokens: int) -> float:
        answers = {"from": "student", "max_new_tokens": tokens}
        recipe = _run(tiny_world, tmp_path / "run", method="on_policy", answers=answers)
        return estimate(recipe, DEVICES["l4"]).runs[0].training

    stored = _run(tiny_world, tmp_path / "run", method="on_policy", answers="dataset")
    fixed = estimate(stored, DEVICES["l4"]).runs[0].training
    assert seconds(20) - fixed == pytest.approx(2 * (seconds(10) - fixed), rel=1e-6)
    assert seconds(10) > fixed


def test_the_command_prints_and_refuses(
    tiny_world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(_run(tiny_world, tmp_path / "run", method="logits").model_dump_json(), encoding="utf-8")
    done = CliRunner().invoke(app, ["estimate", str(recipe), "--device", "h200"])
    assert done.exit_code == 0 and "fits" in done.output and "AdamW" in done.output and "hours" in done.output
    monkeypatch.setitem(DEVICES, "l4", replace(DEVICES["l4"], memory_bytes=1e6))
    done = CliRunner().invoke(app, ["estimate", str(recipe), "--device", "l4"])
    assert done.exit_code == 1 and "DOES NOT FIT" in done.output
    done = CliRunner().invoke(app, ["estimate", str(recipe), "teacher.path=some-owner/some-model"])
    assert isinstance(done.exception, DistillabError) and "some-owner/some-model" in str(done.exception)

"""`dl.distil` is the run of `distillab train`, to the last digit: from paths and from objects in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

import distillab as dl
from distillab.cli.main import app
from distillab.errors import ConfigError, DataError, TokenizerMismatch
from distillab.files import file_sha256, read_json, read_json_lines


def rows_of(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def pair_of(path: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32), AutoTokenizer.from_pretrained(path)


@pytest.fixture
def world(tiny_world: dict[str, Any]) -> dict[str, Any]:
    """Paths, and the settings of a small run."""
    settings = {
        f"{part}.{key}": value for part in ("training", "evaluation") for key, value in tiny_world[part].items()
    }
    return {
        "student": tiny_world["student"]["path"],
        "teacher": tiny_world["teacher"]["path"],
        "train": tiny_world["data"]["train"]["path"],
        "held_out": tiny_world["data"]["held_out"]["path"],
        "settings": {**settings, "data.max_tokens": 96},
    }


def in_memory(world: dict[str, Any]) -> dict[str, Any]:
    return {
        **world,
        "student": pair_of(world["student"]),
        "teacher": pair_of(world["teacher"]),
        "train": rows_of(world["train"]),
        "held_out": Dataset.from_list(rows_of(world["held_out"])),
    }


def figures(folder: Path) -> dict[str, Any]:
    """What must be equal: everything measured, and the bytes of the student."""
    lines = read_json_lines(folder / "metrics.jsonl")
    record = read_json(folder / "run.json")
    return {
        "metrics": [{key: value for key, value in line.items() if key != "tokens_per_s"} for line in lines],
        "record": {key: record[key] for key in ("evaluation", "curve", "references")},
        "weights": file_sha256(folder / "student" / "model.safetensors"),
        "held_out": (folder / "held_out.jsonl").read_text(encoding="utf-8"),
    }


def test_paths_objects_and_the_recipe_give_the_same_run(world: dict[str, Any], tiny_world: Any, tmp_path: Path) -> None:
    from_paths = dl.distil(**world, output=tmp_path / "paths")
    from_objects = dl.distil(**in_memory(world), output=tmp_path / "objects")
    recipe = {name: tiny_world[name] for name in ("student", "teacher", "data", "training", "evaluation")}
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps({**recipe, "method": "logits", "output": str(tmp_path / "cli")}), encoding="utf-8")
    done = CliRunner().invoke(app, ["train", str(file)])
    assert done.exit_code == 0, done.output
    expected = figures(from_paths.folder)
    assert len(expected["metrics"]) == 7
    assert figures(from_objects.folder) == figures(tmp_path / "cli") == expected
    assert from_objects.evaluation == from_paths.evaluation
    assert from_objects.metrics[0] == from_paths.metrics[0]


def test_records_of_objects_have_their_hash_and_no_invented_name(world: dict[str, Any], tmp_path: Path) -> None:
    objects = in_memory(world)
    run = dl.distil(**objects, output=tmp_path / "run")
    assert run.record.teacher is not None
    assert run.record.teacher.name == "in memory"
    assert run.record.config["student"]["path"] == "memory:student"
    again = dl.distil(**objects, output=tmp_path / "run")
    assert again.record == run.record  # finished, and the student that was passed in has not changed
    with torch.no_grad():
        next(objects["teacher"][0].parameters()).add_(0.01)
    with pytest.raises(ConfigError, match="files that have changed"):
        dl.distil(**objects, output=tmp_path / "run")


def test_a_model_that_was_changed_in_memory_is_the_one_that_teaches_and_learns(
    world: dict[str, Any], tmp_path: Path
) -> None:
    """Not the one of the folder that it names."""
    objects = in_memory(world)
    for role in ("student", "teacher"):
        with torch.no_grad():
            for parameter in objects[role][0].parameters():
                parameter.mul_(1.5)
        for part in objects[role]:
            part.save_pretrained(tmp_path / role)
    from_objects = dl.distil(**objects, output=tmp_path / "objects")
    saved = {**world, "student": str(tmp_path / "student"), "teacher": str(tmp_path / "teacher")}
    assert figures(from_objects.folder) == figures(dl.distil(**saved, output=tmp_path / "paths").folder)


def test_the_student_is_the_one_that_was_evaluated(world: dict[str, Any], tmp_path: Path) -> None:
    run = dl.distil(**world, output=tmp_path / "run")
    assert run.tokenizer.get_vocab() == AutoTokenizer.from_pretrained(world["student"]).get_vocab()
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "student")
    assert all(torch.equal(a, b) for a, b in zip(run.student.parameters(), saved.parameters(), strict=True))
    assert not run.student.training
    assert "held-out" in run.report()
    assert repr(run) == run.report()


def test_other_arguments_give_another_folder(
    world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    frame = pandas.DataFrame(rows_of(world["train"]))
    runs = [dl.distil(**{**world, "train": frame}, method="sft", seed=seed) for seed in (0, 0, 1)]
    assert [run.folder.name.startswith("sft-") for run in runs] == [True, True, True]
    assert runs[0].folder == runs[1].folder != runs[2].folder
    assert len(list((tmp_path / "runs").iterdir())) == 2


def squared(student_logits: torch.Tensor, teacher_logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return (student_logits - teacher_logits).square().mean(dim=-1)


def test_a_loss_of_ones_own_is_a_term(world: dict[str, Any], tmp_path: Path) -> None:
    term = dl.terms.CustomDivergence(loss=squared, name="squared")
    run = dl.distil(**world, terms=[dl.terms.CrossEntropy(weight=0.5), term], output=tmp_path / "run")
    last = [line for line in run.metrics if "terms" in line][-1]
    assert last["terms"].keys() == {"cross_entropy", "squared"}
    other = dl.terms.CustomDivergence(loss=lambda s, t, y: (s - t).abs().mean(dim=-1), name="squared")
    with pytest.raises(ConfigError, match="another recipe"):
        dl.distil(**world, terms=[dl.terms.CrossEntropy(weight=0.5), other], output=tmp_path / "run")


@pytest.mark.parametrize(
    ("wrong", "error", "text"),
    [
        ({"student": 3}, ConfigError, "builtins.int"),
        ({"teacher": "tokenizer"}, ConfigError, "tokenizer alone"),
        ({"train": 3}, DataError, "builtins.int"),
        ({"train": [{"left": "a", "right": "b"}]}, DataError, "columns"),
        ({"settings": {"training.step": 3}}, ConfigError, "steps"),
        ({"steps": 3, "settings": {"training.steps": 3}}, ConfigError, "given twice"),
        ({"terms": ["forward_kl"]}, ConfigError, "dl.terms"),
        ({"method": "logit"}, ConfigError, "logits"),
    ],
    ids=str,
)
def test_what_cannot_be_is_an_error_with_a_way_out(
    world: dict[str, Any], wrong: dict[str, Any], error: type[Exception], text: str
) -> None:
    if wrong.get("teacher") == "tokenizer":
        wrong = {"teacher": AutoTokenizer.from_pretrained(world["teacher"])}
    with pytest.raises(error) as raised:
        dl.distil(**{**world, **wrong})
    assert text in str(raised.value)
    assert "fix:" in str(raised.value) or "did you mean" in str(raised.value)


def test_a_pair_that_does_not_allow_the_method_is_refused_with_the_ways_out(
    world: dict[str, Any], stranger: str
) -> None:
    with pytest.raises(TokenizerMismatch, match="not valid for this pair") as raised:
        dl.distil(**{**in_memory(world), "teacher": pair_of(stranger)})
    assert "vocabulary_projection" in str(raised.value)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT reads it
def test_a_peft_student_learns_by_its_adapters_and_is_saved_whole(world: dict[str, Any], tmp_path: Path) -> None:
    model, tokenizer = pair_of(world["student"])
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    run = dl.distil(**{**world, "student": (adapted, tokenizer)}, output=tmp_path / "run")
    for name, parameter in run.student.named_parameters():
        assert torch.equal(parameter, before[name]) is ("q_proj" not in name), name
    inside = dict(adapted.unload().named_parameters())
    assert all(torch.equal(inside[name], value) for name, value in before.items())  # the user's own has not changed

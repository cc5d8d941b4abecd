"""A run whose student learns by adapters alone: what is trained, evaluated, saved, and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from distillab.config.run import RunRecipe
from distillab.evaluation.likelihood import score_rows
from distillab.files import file_sha256
from distillab.runs.inputs import load_inputs
from distillab.runs.run import execute
from tests.quantised import INT8, NF4

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)  # PEFT reads it
LORA = {"rank": 2, "alpha": 8, "targets": ["q_proj", "down_proj"]}


def _recipe(tiny_world: dict[str, Any], output: Path, *, student: dict[str, Any], **changes: Any) -> RunRecipe:
    values = {key: value for key, value in tiny_world.items() if key != "seeds"}
    values["student"] = {**tiny_world["student"], "adapter": LORA, **student}
    return RunRecipe(**{**values, "method": "logits", "output": str(output), **changes})


@pytest.mark.parametrize("kind", [None, INT8, NF4])
@pytest.mark.parametrize("save_as", ["merged", "adapter"])
def test_what_is_evaluated_is_what_is_saved(
    tiny_world: dict[str, Any], tmp_path: Path, kind: str | None, save_as: str
) -> None:
    student = {} if kind is None else {"quantization": kind}
    base = Path(tiny_world["student"]["path"]) / "model.safetensors"
    before, sha256 = load_file(base), file_sha256(base)
    recipe = _recipe(tiny_world, tmp_path / "run", student={**student, "save_as": save_as})
    record = execute(recipe)
    assert file_sha256(base) == sha256
    assert "adapters of rank 2: " in " ".join(record.notes)
    folder = tmp_path / "run" / "student"
    if save_as == "adapter":
        assert {"adapter_config.json", "adapter_model.safetensors", "generation_config.json"} <= _files(folder)
        assert "model.safetensors" not in _files(folder)
    else:
        saved = load_file(folder / "model.safetensors")
        same = {name for name, weight in before.items() if torch.equal(weight, saved[name])}
        changed = {name.split(".")[-2] for name in before.keys() - same}
        quantised = {"q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "gate_proj", "down_proj"}
        assert changed == (quantised if student else set(LORA["targets"]))
    model = (AutoPeftModelForCausalLM if save_as == "adapter" else AutoModelForCausalLM).from_pretrained(folder)
    if not (student and save_as == "adapter"):  # plain peft loads the adapters on the weights in full precision
        assert _nats(recipe, model) == pytest.approx(record.evaluation.nats_per_token, abs=1e-6)


def _files(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def _nats(recipe: RunRecipe, model: torch.nn.Module) -> float:
    inputs = load_inputs(recipe)
    rows = inputs.held_out.first(recipe.evaluation.rows)
    scores = score_rows(
        model.eval(), rows.rows, collator=inputs.student.collator("right"), batch_size=32, stop_ids=rows.stop_ids
    )
    return float(scores.nats.sum() / scores.tokens.sum())


@pytest.mark.parametrize(
    ("student", "text"),
    [
        ({"adapter": None, "quantization": "nf4"}, "add adapter"),
        ({"adapter": None, "save_as": "adapter"}, "no effect"),
        ({"init": "random"}, "pretrained"),
        ({"adapter": {"targets": []}}, "nothing would learn"),
        ({"adapter": {"rank": 0}}, "greater than or equal to 1"),
    ],
    ids=str,
)
def test_settings_that_cannot_be(
    tiny_world: dict[str, Any], tmp_path: Path, student: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        _recipe(tiny_world, tmp_path, student=student)

"""What a saved student's files are: type, settings, permissions."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from distillab.config.run import RunRecipe
from distillab.errors import NumericsError
from distillab.models.saving import round_weights, save_student, saved_dtype
from distillab.records import RunRecord
from distillab.runs.run import execute
from tests.models.chat_students import chat_reader
from tests.models.decoders import tiny_model


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return chat_reader(tmp_path_factory.mktemp("tokenizer"))


def _save(folder: Path, model: PreTrainedModel, reader: Any, dtype: torch.dtype | None = None) -> Path:
    save_student(folder, model, reader.tokenizer, stop_ids=(2,), pad_id=0, dtype=dtype)
    return folder


@pytest.fixture(params=[0o022, 0o027, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_permissions_follow_the_umask(tmp_path: Path, reader: Any, umask: int) -> None:
    """safetensors makes files that no other user can read."""
    folder = _save(tmp_path / "student", tiny_model("llama"), reader)
    names = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert "model.safetensors" in names
    assert set(names.values()) == {0o666 & ~umask}


@pytest.mark.parametrize("tied", [True, False])
def test_weights_of_another_type_are_the_rounded_ones(tmp_path: Path, reader: Any, tied: bool) -> None:
    model = tiny_model("llama", tie_word_embeddings=tied)
    full = _save(tmp_path / "full", model, reader) / "model.safetensors"
    round_weights(model, torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    half = _save(tmp_path / "half", model, reader, torch.bfloat16)
    stored, before = load_file(half / "model.safetensors"), load_file(full)
    assert stored.keys() == before.keys()  # a head that is the embeddings is stored once
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert all(torch.equal(stored[name], before[name].to(torch.bfloat16)) for name in stored)
    assert json.loads((half / "config.json").read_text())["dtype"] == "bfloat16"
    again = AutoModelForCausalLM.from_pretrained(half, dtype=torch.float32)
    ids = torch.arange(8)[None]
    assert torch.equal(again(ids).logits, model(ids).logits)  # what was judged


def test_the_source_decides_the_type(reader: Any) -> None:
    model = tiny_model("llama")
    assert saved_dtype("source", LlamaConfig(dtype="bfloat16"), model) is torch.bfloat16
    assert saved_dtype("source", LlamaConfig(dtype=torch.float16), model) is torch.float16
    assert saved_dtype("source", LlamaConfig(), model) is torch.float32
    assert saved_dtype("float32", LlamaConfig(dtype="bfloat16"), model) is torch.float32


def test_a_weight_beyond_the_range_is_not_saved_as_infinity() -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.get_input_embeddings().weight[0, 0] = 1e6
    with pytest.raises(NumericsError, match="beyond the range") as caught:
        round_weights(model, torch.float16)
    assert "embed_tokens" in str(caught.value) and "65504" in str(caught.value).replace("6.55e+04", "65504")


@pytest.fixture(scope="module")
def run(tiny_world: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunRecord]:
    """A student whose checkpoint is bfloat16, trained in float32."""
    folder = tmp_path_factory.mktemp("export")
    source = folder / "source"
    AutoModelForCausalLM.from_pretrained(tiny_world["student"]["path"], dtype=torch.bfloat16).save_pretrained(source)
    recipe = RunRecipe(
        student={"path": str(source), "tokenizer": tiny_world["student"]["path"]},
        data=tiny_world["data"],
        training=tiny_world["training"] | {"steps": 2},
        evaluation={"rows": 8, "curve_rows": 4, "generate_rows": 0},
        output=str(folder / "run"),
    )
    return folder, execute(recipe)


def test_a_run_saves_its_student_in_the_type_of_its_source(run: tuple[Path, RunRecord]) -> None:
    folder, _ = run
    made, source = folder / "run" / "student", folder / "source"
    assert {tensor.dtype for tensor in load_file(made / "model.safetensors").values()} == {torch.bfloat16}
    sizes = [(place / "model.safetensors").stat().st_size for place in (made, source)]
    assert abs(sizes[0] - sizes[1]) < 1024


def test_training_leaves_no_setting_of_its_own_in_the_config(run: tuple[Path, RunRecord]) -> None:
    folder, _ = run
    made, source = (
        json.loads((place / "config.json").read_text()) for place in (folder / "run/student", folder / "source")
    )
    assert source["use_cache"] is True
    differing = {key for key in made.keys() | source.keys() if made.get(key) != source.get(key)}
    assert differing <= {"transformers_version", "_name_or_path"}

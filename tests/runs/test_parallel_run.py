"""A run whose models are divided over two processes: its figures and files are those of one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from distillab.config.parallel import ParallelConfig
from distillab.config.run import RunRecipe
from distillab.errors import ConfigError
from distillab.models.sharded import distributed_config
from distillab.preflight.recipe import audit_recipe
from distillab.runs.inputs import load_inputs
from distillab.runs.run import execute
from distillab.runs.student import load_student
from tests.processes import ended, start_distillab
from tests.runs.test_processes import on_two, weights, write_recipe

FSDP, TENSOR = {"parallel": {"fsdp": 2}}, {"parallel": {"tensor": 2}}
LORA = {"adapter": {"rank": 2, "alpha": 8}}


def _record(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "run.json").read_text()))


def _figures(run: Path) -> dict[str, float]:
    metrics = _record(run)["evaluation"]["metrics"]
    return {metric["name"]: metric["value"] for metric in metrics if metric["value"] is not None}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("student", "teacher", "save_dtype"),
    [(FSDP, TENSOR, "bfloat16"), ({**FSDP, **LORA}, FSDP, "source")],
    ids=["student and tensor-parallel teacher", "adapters, merged"],
)
def test_a_divided_run_leaves_what_one_process_leaves(
    tiny_world: dict[str, Any], tmp_path: Path, student: Any, teacher: Any, save_dtype: str
) -> None:
    of_student = {**tiny_world["student"], **student, "save_dtype": save_dtype}
    alone = {name: value for name, value in of_student.items() if name != "parallel"}
    one = write_recipe(tiny_world, tmp_path, "one", student=alone)
    two = write_recipe(tiny_world, tmp_path, "two", student=of_student, teacher={**tiny_world["teacher"], **teacher})
    assert ended(start_distillab("train", str(one)))[0] == 0
    on_two(two)
    assert _figures(tmp_path / "two") == pytest.approx(_figures(tmp_path / "one"), rel=1e-5)
    assert (weights(tmp_path / "one").float() - weights(tmp_path / "two").float()).abs().max() < 1e-6
    notes = " ".join(_record(tmp_path / "two")["notes"])
    assert "The student is divided over processes: fsdp 2." in notes and "The teacher is divided" in notes
    folders = [tmp_path / name / "student" for name in ("one", "two")]
    one_files, two_files = (sorted(path.name for path in folder.iterdir()) for folder in folders)
    assert one_files == two_files
    assert (folders[0] / "config.json").read_text() == (folders[1] / "config.json").read_text()
    model = AutoModelForCausalLM.from_pretrained(folders[1])
    assert torch.isfinite(model(input_ids=torch.tensor([[1, 2]])).logits).all()
    assert _record(tmp_path / "two")["identity"] == _record(tmp_path / "one")["identity"]


def test_fewer_processes_than_the_recipe_divides_over_are_refused(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    values = {key: value for key, value in tiny_world.items() if key != "seeds"}
    recipe = RunRecipe(**{**values, "student": {**values["student"], **FSDP}, "output": str(tmp_path / "run")})
    said = r"(?s)student is divided.*where: student.parallel: fsdp 2.*torchrun --standalone --nproc_per_node 2.*=null"
    for begins in (execute, audit_recipe, lambda recipe: load_student(load_inputs(recipe))):
        with pytest.raises(ConfigError, match=said):
            begins(recipe)
    assert not (tmp_path / "run").exists()


def test_parts_in_the_cpus_memory_are_not_moved_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"(?s)in the CPU's memory already.*teacher.parallel.offload.*remove offload"):
        distributed_config(ParallelConfig(fsdp=2, offload=True), torch.device("cpu"), role="teacher")

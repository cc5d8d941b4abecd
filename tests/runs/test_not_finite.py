"""NaN and infinity never reach a student's folder or a record, also where they come with the last step."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from distillab.config.run import RunRecipe
from distillab.config.study import StudyRecipe
from distillab.errors import NumericsError
from distillab.evaluation.protocol import require_finite_figures
from distillab.records import EvaluationRecord, RunRecord, read_record, write_record
from distillab.runs.run import execute
from distillab.study.study import Study
from tests.figures import figures, with_value


def test_weights_that_the_last_step_broke_are_not_kept(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    values = {key: value for key, value in tiny_world.items() if key != "seeds"}
    training = {**tiny_world["training"], "steps": 1, "learning_rate": 1e38, "weight_decay": 1e38}
    recipe = RunRecipe(**{**values, "training": training}, output=str(tmp_path / "run"))
    for _ in range(2):  # the same command says the same
        with pytest.raises(NumericsError, match=r"(?s)weights are not finite.*step 1.*tensor: \S+.*another output"):
            execute(recipe)
        left = {path.name for path in (tmp_path / "run").rglob("*") if path.is_file()}
        assert left == {"recipe.json", "metrics.jsonl"}


def test_a_study_is_not_blocked_for_good_by_a_model_that_is_broken(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    """Mended, the same command goes on; the finished runs are kept."""
    teacher = Path(shutil.copytree(tiny_world["teacher"]["path"], tmp_path / "teacher"))
    whole = (teacher / "model.safetensors").read_bytes()
    values = {**tiny_world, "arms": ["sft"], "seeds": [0], "teacher": {"path": str(teacher)}}
    recipe = StudyRecipe(**values, output=str(tmp_path / "study"))
    tensors = load_file(teacher / "model.safetensors")
    tensors["model.norm.weight"] = torch.full_like(tensors["model.norm.weight"], torch.nan)
    save_file(tensors, teacher / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NumericsError, match=r"(?s)nats_per_token: nan"):
        Study(recipe, reproduce="x").run()
    assert not list((tmp_path / "study").rglob("teacher-*.json"))
    (teacher / "model.safetensors").write_bytes(whole)
    shutil.rmtree(tmp_path / "study")  # other weights are another study
    assert Study(recipe, reproduce="x").run().arms


def test_a_record_never_holds_what_json_has_no_word_for(tmp_path: Path) -> None:
    sound = figures(nats_per_token=1.0, bits_per_byte=1.0, token_accuracy=1.0)
    broken = with_value(sound, "bits_per_byte", float("inf"))
    with pytest.raises(ValueError, match="Out of range float"):
        write_record(broken, tmp_path / "record.json")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(NumericsError, match=r"(?s)here.*bits_per_byte: inf"):
        require_finite_figures(broken, where="here")
    require_finite_figures(sound, where="here")
    write_record(sound, tmp_path / "record.json")
    assert read_record(EvaluationRecord, tmp_path / "record.json") == sound
    with pytest.raises(Exception, match="delete it"):
        read_record(RunRecord, tmp_path / "record.json", fix="delete it")

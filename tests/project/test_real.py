"""`make real` in small: its rows, its overrides and its recipe, with a tiny GGUF file in place of SmolLM2."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from scripts.real_rows import main
from tests.gguf_files import Q, byte_level, tiny_llama, write_gguf
from tests.project.test_make import make

from distillab.cli.recipes import load_any
from distillab.config.study import StudyRecipe
from distillab.errors import ConfigError
from distillab.report.build import write_report
from distillab.study.study import Study

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "real-smollm2.yaml"
SMALL = (
    "student.from_teacher={keep_layers: 1, calibration_rows: 4}",
    "data.max_tokens=256",
    "training={steps: 2, batch_size: 2, evaluate_every: 2, checkpoint_every: 2, device: cpu}",
    "evaluation.rows=4",
    "evaluation.curve_rows=2",
    "evaluation.generate_rows=2",
    "evaluation.max_new_tokens=4",
    "workers=1",
)


def _overrides(**variables: str) -> list[str]:
    """Return the overrides that `make real` gives to the recipe, by `make -n`."""
    words = [f"{name}={value}" for name, value in variables.items()]
    done = make("-n", "real", "SMOLLM2=Makefile", "STAMP=Makefile", *words)
    command = done.stdout.replace("\\\n", " ").partition("recipes/real-smollm2.yaml")[2]
    return shlex.split(command)


@pytest.mark.parametrize("budget", ["hour", "full"])
@pytest.mark.parametrize("materials", ["", "/materials"])
def test_the_target_gives_the_recipe_its_budget_and_rows(budget: str, materials: str) -> None:
    words = _overrides(REAL_BUDGET=budget, DISTILLAB_MATERIALS=materials)
    recipe = load_any(RECIPE, words)
    assert isinstance(recipe, StudyRecipe)
    assert len(recipe.seeds) == (3 if budget == "full" else 1)
    assert (recipe.data.train.limit is None) == (budget == "full")
    assert recipe.training.steps == (150 if budget == "full" else 20 if materials else 40)
    corrections = [arm.teacher_correction for arm in recipe.arms if arm.name.endswith("-corrected")]
    assert [found and found.steps for found in corrections] == [recipe.training.steps] * 2
    assert (recipe.evaluation.value_pattern is None) == bool(materials)
    assert {arm.method for arm in recipe.arms} >= {"sft", "seqkd", "logits", "hidden_states", "attention", "white_box"}
    assert recipe.output.endswith(f"{'-materials' if materials else ''}{'-full' if budget == 'full' else ''}")


def test_an_unknown_budget_is_refused() -> None:
    done = make("-n", "real", "REAL_BUDGET=week")
    assert done.returncode != 0 and 'hour (the default) or full, not "week"' in done.stderr


def test_the_materials_give_one_row_for_each_answer(
    materials: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTILLAB_MATERIALS", str(materials))
    main([str(tmp_path / "rows.jsonl"), "--materials"])
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {tuple(row) for row in rows} == {("prompt", "answer")}
    assert sum("####" in row["answer"] for row in rows) == 1000  # GSM8K's
    seeds = (materials / "text" / "self-instruct" / "seed_tasks.jsonl").read_text(encoding="utf-8").splitlines()
    first = json.loads(seeds[0])
    assert {"prompt": first["instruction"], "answer": first["instances"][0]["output"]} in rows
    with pytest.raises(ConfigError, match="unknown option"):
        main([str(tmp_path / "rows.jsonl"), "--material"])


def test_the_recipe_runs_on_the_shipped_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = byte_level(single_digits=True)
    model = tiny_llama(tokenizer.get_vocab_size())
    model.config.max_position_embeddings = 256
    teacher = write_gguf(tmp_path / "tiny.Q4_0.gguf", model, tokenizer, kind=Q.Q4_0)
    main([str(tmp_path / "rows.jsonl")])
    monkeypatch.setenv("SMOLLM2", str(teacher))
    monkeypatch.setenv("REAL_ROWS", str(tmp_path / "rows.jsonl"))
    few = [f"arms.{index}.teacher_correction.steps=2" for index in (8, 9)]
    recipe = load_any(RECIPE, [*SMALL, *few, "data.train.limit=30", f"output={tmp_path / 'real'}"])
    assert isinstance(recipe, StudyRecipe)
    arms = tuple(arm for arm in recipe.arms if arm.name in ("sft", "top_k", "white_box-corrected"))
    results = Study(recipe.model_copy(update={"arms": arms}), reproduce="make real").run()
    assert results.headline.startswith("Beyond SFT, on the data set's answers:")
    assert "the teacher's most likely tokens (top_k)" in results.headline
    teachers = {point.name: point.note or "" for point in results.baselines if point.role == "teacher"}
    assert "GGUF Q4_0, 4.6 bits a weight" in teachers["tiny.Q4_0.gguf"]
    assert sorted("corrected: trained on the training rows, 2 steps" in note for note in teachers.values()) == [
        False,
        True,
    ]
    markdown, _ = write_report(results, tmp_path)
    report = markdown.read_text(encoding="utf-8")
    assert r"tiny.Q4\_0.gguf: loaded from quantised weights: GGUF Q4\_0, 4.6 bits a weight" in report
    assert "Beyond SFT" in report

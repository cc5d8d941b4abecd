"""Held-out rows that cannot be judged: how many and why, before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distillab.cli.preflight import checked_first
from distillab.config.run import RunRecipe
from distillab.config.study import StudyRecipe
from distillab.records import EncodingCounts
from distillab.runs.held_out import held_out_line
from distillab.runs.inputs import load_inputs
from distillab.study.study import Study
from tests.cli.conftest import call, write_recipe


@pytest.fixture
def values(tiny_world: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The tiny world with 22 held-out rows: two that fit, 18 that are too long, two with an empty answer."""
    rows = [{"prompt": f"What is {n} and {n}?", "answer": "Both."} for n in range(2)]
    rows += [{"prompt": f"Count to {n}.", "answer": "one two three four five " * 60} for n in range(18)]
    rows += [{"prompt": f"Say nothing, {n}.", "answer": " "} for n in range(2)]
    path = tmp_path / "held_out.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = {**tiny_world["data"], "held_out": {"path": str(path)}}
    return {key: value for key, value in tiny_world.items() if key != "seeds"} | {"data": data}


def test_every_row_that_is_not_judged_has_its_reason(values: dict[str, Any], tmp_path: Path) -> None:
    recipe = RunRecipe(**values, method="logits", output=str(tmp_path / "run"))
    inputs = load_inputs(recipe)
    counts = inputs.held_out_counts
    assert (counts.rows, counts.kept, counts.left_out) == (22, 2, 20)
    assert counts.left_out_for == {"too long": 18, "empty answer": 2}
    assert inputs.held_out_line == (
        "2 of 22 held-out rows can be evaluated: 18 too long, 2 empty answer; data.max_tokens 96 is their limit, raise "
        "it. Below 10 rows a difference gets no interval."
    )
    # of another teacher of the study one more does not fit
    first = inputs.held_out_examples[0].key
    fewer = inputs.with_eval_rows({first}).held_out_counts
    assert fewer.left_out_for == {"too long": 18, "empty answer": 2, "not for all teachers": 1}
    assert sum(fewer.left_out_for.values()) == fewer.left_out == 21


def test_the_line_stands_before_the_training(values: dict[str, Any], tmp_path: Path) -> None:
    training = {**values["training"], "steps": 2, "evaluate_every": 2}
    code, out, err = call("train", write_recipe(tmp_path, values, data=values["data"], training=training, teacher=None))
    assert code == 0, err
    assert out.startswith("2 of 22 held-out rows can be evaluated: 18 too long, 2 empty answer; data.max_tokens 96")
    assert "(n=2)" in out


def test_a_study_says_it_before_the_doctor_looks(
    values: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = StudyRecipe(**values, seeds=[0], output=str(tmp_path / "study"))
    checked_first(Study(recipe, reproduce="x"), no_doctor=True)
    assert capsys.readouterr().out.startswith("2 of 22 held-out rows can be evaluated: 18 too long, 2 empty answer;")


@pytest.mark.parametrize(
    ("kept", "wanted", "line"),
    [
        (40, 200, "40 of 40 held-out rows can be evaluated (evaluation.rows is 200)."),
        (40, 20, "40 of 40 held-out rows can be evaluated; evaluation.rows takes the first 20."),
        (40, 40, "40 of 40 held-out rows can be evaluated."),
    ],
)
def test_the_line_says_how_many_are_taken(kept: int, wanted: int, line: str) -> None:
    counts = EncodingCounts(source="rows", rows=kept, kept=kept)
    assert held_out_line(counts, wanted=wanted, max_tokens=64, max_new_tokens=8) == line

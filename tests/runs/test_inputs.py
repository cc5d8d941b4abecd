"""What a recipe resolves to, and what the runs of a study share of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distillab.config.run import RunRecipe
from distillab.config.study import StudyRecipe
from distillab.errors import TeacherError
from distillab.runs.inputs import RunInputs, load_inputs
from distillab.study.study import Study


def _recipe(tiny_world: dict[str, Any], folder: Path, **changes: Any) -> RunRecipe:
    values = {key: value for key, value in tiny_world.items() if key != "seeds"}
    return RunRecipe(**{**values, "output": str(folder), **changes})


@pytest.fixture
def pair(tiny_world: dict[str, Any], stranger: str, tmp_path: Path) -> RunInputs:
    """Of a teacher with other tokens; its terms align the two tokenisations."""
    recipe = _recipe(tiny_world, tmp_path, method="vocabulary_projection", teacher={"path": stranger})
    return load_inputs(recipe)


def test_the_teacher_reads_its_own_tokens_where_terms_align(pair: RunInputs) -> None:
    teacher = pair.require_teacher()
    view, rows = teacher.train_view, teacher.rows(pair.train)
    assert view.reader is teacher.reader
    assert view.fingerprint == teacher.contract.teacher.fingerprint != teacher.contract.student.fingerprint
    assert view.width == teacher.contract.teacher.tokens
    assert [len(row) for row in rows] != [len(row) for row in pair.train.rows]
    assert teacher.rows(pair.train) is rows  # encoded once
    assert teacher.vocabularies is not None
    assert (pair.mismatched_vocab, teacher.eval_view.width) == (False, 0)


def test_by_index_it_reads_the_students_tokens(pair: RunInputs) -> None:
    by_index = pair.with_recipe(pair.recipe.model_copy(update={"method": "logits", "terms": None}))
    teacher = by_index.require_teacher()
    assert by_index.mismatched_vocab
    assert teacher.train_view.reader is by_index.student
    assert teacher.rows(by_index.train) is by_index.train.rows
    smaller = min(side.tokens for side in (teacher.contract.teacher, teacher.contract.student))
    assert teacher.train_view.width == teacher.compared_width == smaller
    assert teacher.vocabularies is None


def test_another_recipe_shares_what_is_loaded(pair: RunInputs) -> None:
    other = pair.with_recipe(pair.recipe.model_copy(update={"method": "merged_spans", "terms": None, "seed": 5}))
    assert (other.method.terms[0].kind, other.recipe.seed) != (pair.method.terms[0].kind, pair.recipe.seed)
    assert other.train is pair.train
    assert other.require_teacher().vocabularies is pair.require_teacher().vocabularies


@pytest.mark.parametrize(
    "changes", [{"student": {"path": "other"}}, {"data": {"train": {"path": "x"}}}, {"teacher": {"path": "x"}}]
)
def test_a_recipe_of_other_models_or_data_is_refused(pair: RunInputs, changes: dict[str, Any]) -> None:
    values = pair.recipe.model_dump() | changes
    with pytest.raises(ValueError, match="must be loaded again"):
        pair.with_recipe(RunRecipe(**values))


def test_without_a_teacher_nothing_of_one_is_given(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    inputs = load_inputs(_recipe(tiny_world, tmp_path, method="sft", teacher=None))
    assert (inputs.teacher, inputs.contract, inputs.shared_width, inputs.mismatched_vocab) == (None, None, 0, False)
    with pytest.raises(TeacherError, match="the recipe names none"):
        inputs.require_teacher()


def test_the_arms_of_a_study_share_rows_and_tokenizers(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    recipe = StudyRecipe(**{**tiny_world, "arms": ["sft", "logits"], "output": str(tmp_path / "study")})
    study = Study(recipe, reproduce="x")
    (sft, logits), seed = recipe.arms, recipe.seeds[-1]
    first, second = study.inputs(sft), study.inputs(logits, seed)
    assert (first.recipe.method, second.recipe.method, second.recipe.seed) == ("sft", "logits", seed)
    assert first.train is second.train
    assert first.require_teacher().pair is second.require_teacher().pair

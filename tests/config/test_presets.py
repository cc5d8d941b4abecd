"""The preset of a method for a student that starts from pretrained, or from random weights."""

from __future__ import annotations

from typing import Any

import pytest

from distillab.config import METHODS, RunRecipe, StudyRecipe
from distillab.config.identity import identity_settings
from distillab.config.terms import CrossEntropyConfig

OWN = [{"kind": "cross_entropy", "weight": 0.25}, {"kind": "hidden_states", "weight": 3.0}]


def run(init: str, **settings: Any) -> RunRecipe:
    values = {"student": {"path": "s", "init": init}, "teacher": {"path": "t"}, "data": {"train": {"path": "rows"}}}
    return RunRecipe.model_validate({**values, **settings})


@pytest.mark.parametrize("method", METHODS)
def test_a_preset_for_pretrained_students_changes_weights_alone_or_the_divergence_on_own_answers(method: str) -> None:
    preset = METHODS[method]
    other = {"weight", "divergence"} if preset.own is not None else {"weight"}

    def without_weights(init: Any) -> list[dict[str, Any]]:
        return [term.model_dump(exclude=other) for term in preset.terms_for(init)]

    assert without_weights("pretrained") == without_weights("random")


@pytest.mark.parametrize(
    "method", ["logits", "hidden_states", "attention", "white_box", "contrastive", "span_hidden_states"]
)
def test_the_weights_that_a_run_trains_with_are_in_its_recipe(method: str) -> None:
    pretrained, random = run("pretrained", method=method), run("random", method=method)
    assert pretrained.terms == METHODS[method].pretrained == pretrained.resolved().terms
    assert random.terms == METHODS[method].terms == random.resolved().terms
    assert pretrained.terms != random.terms
    assert RunRecipe.model_validate(pretrained.model_dump(mode="json")) == pretrained


def test_the_weights_of_a_study_are_in_its_recipe() -> None:
    values = {**run("random").model_dump(include={"student", "teacher", "data"}), "arms": ["sft", "white_box"]}
    (_, arm) = StudyRecipe.model_validate(values).arms
    assert arm.terms == METHODS["white_box"].terms


def test_terms_of_a_recipe_replace_every_preset() -> None:
    for init in ("pretrained", "random"):
        assert run(init, method="white_box", terms=OWN).terms == run(init, method="hidden_states", terms=OWN).terms
        assert run(init, method="white_box", terms=OWN).resolved().terms[0] == CrossEntropyConfig(weight=0.25)


def test_a_run_of_a_study_equals_the_run_alone() -> None:
    alone = run("pretrained", method="white_box", name="white_box-seed0")
    values = alone.model_dump(include={"student", "teacher", "data"})
    study = StudyRecipe.model_validate({**values, "arms": ["sft", "white_box"]})
    assert identity_settings(study.run_recipe(study.arms[1], 0, "elsewhere")) == identity_settings(alone)


def test_the_identity_of_a_run_covers_the_weights_of_its_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity_settings(run("pretrained", method="attention"))
    monkeypatch.setitem(METHODS, "attention", METHODS["hidden_states"])
    assert identity_settings(run("pretrained", method="attention")) != before

"""Settings of answers that the student writes itself: what is taken over, and what is refused with a reason."""

from __future__ import annotations

from typing import Any

import pytest

from distillab.config import METHODS, RunRecipe, StudyRecipe
from distillab.config.loader import build_recipe
from distillab.config.on_policy import HorizonConfig, StudentAnswersConfig
from distillab.errors import ConfigError

BASE: dict[str, Any] = {"student": {"path": "s"}, "teacher": {"path": "t"}, "data": {"train": {"path": "rows"}}}
STUDENT = {"from": "student"}


def served(**server: Any) -> dict[str, Any]:
    return {"server": {"url": "http://localhost:1", **server}, "folder": "weights"}


def run(**settings: Any) -> RunRecipe:
    return build_recipe(RunRecipe, {**BASE, **settings}, (), where="the test")


def test_what_a_recipe_sets_replaces_the_method_s_and_the_rest_stays() -> None:
    recipe = run(method="gkd", answers={**STUDENT, "max_new_tokens": 7})
    assert recipe.answers == StudentAnswersConfig(fraction=0.5, max_new_tokens=7) == recipe.resolved().own
    assert run(method="on_policy").answers == METHODS["on_policy"].own
    assert run(method="logits", terms=[{"kind": "token_divergence"}], answers=STUDENT).resolved().own is not None
    assert run(method="on_policy", answers="dataset").resolved().own is None
    assert run(method="on_policy", answers={**STUDENT, "otherwise": "teacher"}).resolved().answers == "teacher"
    assert RunRecipe.model_validate(recipe.model_dump(mode="json")) == recipe


def test_an_arm_of_a_study_is_the_run_alone() -> None:
    arm = {"name": "own", "method": "gkd", "answers": {**STUDENT, "max_new_tokens": 7}}
    study = StudyRecipe.model_validate({**BASE, "arms": ["sft", arm]})
    made = study.run_recipe(study.arms[1], 0, "elsewhere")
    assert made.answers == run(method="gkd", answers=arm["answers"]).answers


def test_the_horizon_grows_to_its_end_over_a_share_of_the_steps() -> None:
    answers = StudentAnswersConfig(max_new_tokens=HorizonConfig(start=10, end=20, over=0.5))
    assert [answers.horizon(step, 10) for step in (1, 2, 4, 6, 10)] == [10, 12, 16, 20, 20]
    assert StudentAnswersConfig(max_new_tokens=9).horizon(3, 10) == 9


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"answers": {**STUDENT, "fraction": 1.0, "otherwise": "teacher"}}, "otherwise: teacher has no effect"),
        ({"answers": {**STUDENT, "fraktion": 1.0}}, "answers.fraktion: no such key; did you mean"),
        ({"answers": {**STUDENT, "fraction": 0.01}}, "is no row"),
        ({"answers": {**STUDENT, "max_new_tokens": {"start": 9, "end": 9}}}, "for a constant write one number"),
        ({"answers": "students"}, "answers: Input should be 'dataset' or 'teacher'"),
        ({"answers": {**STUDENT, "reuse": 2}, "terms": [{"kind": "hidden_states"}]}, "no value at each token"),
        ({"answers": {**STUDENT, "reuse": 2}, "training": {"steps": 1, "warmup_steps": 0}}, "more than training.steps"),
        ({"answers": {**STUDENT, "sampler": "vllm"}}, "answers.sampler: Input should be 'local'"),
        (
            {"answers": {**STUDENT, "sampler": "continuous_batching", "sampling": {"temperature": 0.5}}},
            "use temperature 1 or 0",
        ),
        (
            {"answers": {**STUDENT, "sampler": served(dialect="llama_cpp")}},
            "a sampler behind llama_cpp is not supported",
        ),
        ({"answers": {**STUDENT, "sampler": served(k=3)}}, "k: no effect on a sampler"),
        ({"answers": {**STUDENT, "sampler": served()}, "terms": [{"kind": "hidden_states"}]}, "no term reads"),
        ({"terms": [{"kind": "cross_entropy"}]}, "cross_entropy has no signal"),
        ({"terms": [{"kind": "vocabulary_projection"}]}, "set rest: none"),
        ({"terms": [{"kind": "dual_space"}]}, "that is the student's own"),
        ({"terms": [{"kind": "top_k_divergence", "divergence": "reverse_kl"}]}, "use forward_kl and cell"),
        ({"terms": [{"kind": "top_k_divergence", "tail": "drop_tail"}]}, "use forward_kl and cell"),
        ({"training": {"packing": True}}, "set packing: false"),
        ({"training": {"group_by_length": True}}, "set group_by_length: false"),
        ({"teacher": {"cache": "c"}}, "no cache holds"),
        ({"answers": {**STUDENT, "weight_by": "sequence"}, "terms": [{"kind": "hidden_states"}]}, "each is weighed"),
        ({"answers": {**STUDENT, "truncated": "drop"}, "terms": [{"kind": "hidden_states"}]}, "each is weighed"),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_reason(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError) as error:
        run(method="on_policy", **settings)
    assert reason in str(error.value)
    assert len(error.value.facts) == 1


def test_a_study_names_the_arm() -> None:
    arms = ["sft", {"name": "own", "method": "on_policy", "answers": {**STUDENT, "fraction": 0.01}}]
    with pytest.raises(ValueError, match=r"arm own: fraction 0\.01 of batch_size 32 is no row"):
        StudyRecipe.model_validate({**BASE, "arms": arms})


def _names(arms: list[Any], **settings: Any) -> list[str]:
    return [arm.name for arm in build_recipe(StudyRecipe, {**BASE, "arms": arms, **settings}, (), where="").arms]


def test_a_study_has_the_same_loss_on_stored_answers() -> None:
    assert _names(["sft", "on_policy", "logits"]) == ["sft", "on_policy", "on_policy_fixed", "logits"]
    assert _names(["sft", "on_policy"], fixed_data_twin=False) == ["sft", "on_policy"]
    # one serves two arms with one loss; another loss, or answers of someone else, has one of its own
    assert _names(["sft", "on_policy", "on_policy_pure", "gkd"])[2:] == [
        "on_policy_fixed",
        "on_policy_pure",
        "gkd",
        "gkd_fixed",
    ]
    given = {"name": "mine", "method": "on_policy", "answers": "dataset"}
    assert _names(["sft", given, "on_policy"]) == ["sft", "mine", "on_policy"]
    of_teacher = {"name": "own", "method": "on_policy", "answers": {**STUDENT, "otherwise": "teacher"}}
    assert _names(["sft", given, of_teacher])[-1] == "own_fixed"
    study = StudyRecipe.model_validate({**BASE, "arms": ["sft", of_teacher]})
    assert study.arms[2].resolved().answers == "teacher" and study.arms[2].terms == study.arms[1].terms
    assert study.twin_of(study.arms[1]) == study.arms[2] and study.twin_of(study.arms[0]) is None
    assert StudyRecipe.model_validate(study.model_dump(mode="json")) == study
    failure = {"name": "bad", "method": "on_policy", "shown_failure": "why"}
    assert _names(["sft", failure]) == ["sft", "bad"]

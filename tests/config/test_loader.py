"""What a recipe may say, and what is said when it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from distillab.cli.recipes import load_any
from distillab.config import RunRecipe, StudyRecipe, apply_overrides, load_recipe
from distillab.errors import ConfigError

RUN = "student: {path: s}\ndata: {train: {path: d}}\n"
STUDY = RUN + "teacher: {path: t}\n"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return tmp_path / "recipe.yaml"


def _error(recipe: Path, text: str, kind: type[RunRecipe] | type[StudyRecipe] = RunRecipe) -> str:
    recipe.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load_recipe(kind, recipe)
    return str(error.value)


def test_numbers_and_words_are_read_as_yaml_1_2(recipe: Path) -> None:
    """PyYAML reads 1e-4 as text and `off` as false."""
    recipe.write_text(RUN + "training: {learning_rate: 1e-4}\nname: off\n", encoding="utf-8")
    loaded = load_recipe(RunRecipe, recipe)
    assert loaded.training.learning_rate == 1e-4
    assert loaded.name == "off"


def test_an_unknown_key_is_named_with_its_path_and_near_names(recipe: Path) -> None:
    message = _error(recipe, RUN + "training: {lerning_rate: 0.1}\n")
    assert "training.lerning_rate: no such key" in message and 'did you mean "learning_rate"?' in message


def test_an_unknown_key_inside_a_term_is_named(recipe: Path) -> None:
    text = RUN + "teacher: {path: t}\nmethod: logits\nterms: [{kind: token_divergence, temprature: 2}]\n"
    message = _error(recipe, text)
    assert "terms.0.temprature: no such key" in message and '"temperature"' in message


def test_an_unknown_method_is_named_with_near_names(recipe: Path) -> None:
    message = _error(recipe, RUN + "method: logit\n")
    assert 'no such method: "logit"' in message and 'did you mean "logits"?' in message


def test_a_key_that_stands_twice_is_refused_with_its_line(recipe: Path) -> None:
    message = _error(recipe, RUN + "name: a\nname: b\n")
    assert "twice" in message and "line 4" in message and '"name"' in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (RUN + "training: {steps: 0}\n", "training.steps"),
        (RUN + "training: {steps: 10, warmup_steps: 11}\n", "warmup_steps 11 is larger than steps 10"),
        (RUN + "method: seqkd\n", "add teacher"),
        ("data: [\n", "not YAML"),
        ("- a\n", "mapping"),
        (RUN + "name: ${NOT_SET_ANYWHERE}\n", "NOT_SET_ANYWHERE"),
        (RUN + "teacher_answers: {temperature: 0.7}\n", "without sample"),
        (RUN + "teacher_answers: {answers_per_prompt: 3}\n", "sample: true"),
        (RUN + "evaluation: {value_pattern: 'x'}\n", "exactly one group"),
        (RUN + "evaluation: {value_pattern: '('}\n", "not a regular expression"),
        (STUDY + "method: logits\nterms: [{kind: token_divergence, teacher_weight: 0.5}]\n", "jensen_shannon"),
        (STUDY + "method: logits\nterms: [{kind: token_divergence, divergence: jensen_shannon}]\n", "teacher_weight"),
        (STUDY + "method: logits\nterms: [{kind: top_k_divergence, k: 1, tail: renormalise}]\n", "set k to 2 or more"),
        ("student: {path: s}\ndata: {train: {path: d}, held_out: {fraction: 0.1, path: x}}\n", "exactly one"),
        ("student: {path: s}\ndata: {train: {path: d}, template: chatt}\n", 'did you mean "chat"'),
        (RUN + "teacher: {tokenizer: t}\n", "path (its weights), cache (its stored signals), or both"),
        (RUN + "teacher: {cache: c, dtype: float16}\n", "dtype: no effect without path"),
        (RUN + "teacher: {cache: c, revision: x, tokenizer: t}\n", "tokenizer and revision: no effect"),
        (RUN + "teacher: {cache: c, device: cuda}\n", "device: no effect"),
        (RUN + "teacher: {cache: c, device_map: auto}\n", "device_map: no effect"),
        (RUN + "cache: {kinds: [{kind: full}, {kind: full}]}\n", "duplicate kind: full"),
        ("student: {path: s}\ndata: {train: {path: d, columns: {prompt: q}}}\n", "both prompt and answer"),
        (
            STUDY + "terms: [{kind: token_divergence}, {kind: contrastive}]\n",
            "token_divergence is for one tokenisation that both models read, contrastive for two",
        ),
        (
            STUDY + "method: span_likelihood\ntraining: {packing: true}\n",
            "span_likelihood uses two tokenisations, and packing supports one",
        ),
        (
            STUDY + "method: attention\ntraining: {gradient_shares_every: 0}\n",
            "the balanced weight of attention_relations needs gradient_shares_every",
        ),
        (STUDY + "terms: [{kind: vocabulary_projection, temprature: 2}]\n", "terms.0.temprature: no such key"),
        (RUN + "cache: {kinds: [{kind: full, k: 2}]}\n", "cache.kinds.0.k: no such key"),
    ],
)
def test_wrong_settings_say_what_is_wrong(recipe: Path, text: str, expected: str) -> None:
    assert expected in _error(recipe, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (STUDY + "arms: [logits]\n", "needs the arm sft"),
        (STUDY + "arms: [sft, sft]\n", "same name: sft"),
        (STUDY + "seeds: [1, 1]\n", "duplicate seed"),
        (STUDY + "arms: [sft, {name: a/b, method: sft}]\n", "arms.1.name"),
        (STUDY + "arms: [sft, {name: a, method: logits, teacher: {paht: x}}]\n", "arms.1.teacher.paht"),
        (
            STUDY + "arms: [sft, merged_spans]\ntraining: {packing: true}\n",
            "arm merged_spans: merged_spans uses two tokenisations",
        ),
        (
            STUDY + "arms: [sft, {name: a, method: sft, terms: [{kind: hidden_states}, {kind: merged_spans}]}]\n",
            "arms.1: hidden_states is for one tokenisation",
        ),
        (
            STUDY + "arms: [sft, attention]\ntraining: {gradient_shares_every: 0}\n",
            "arm attention: the balanced weight of attention_relations",
        ),
        (STUDY + "arms: [{name: sft, method: sft, shown_failure: x}]\n", "it cannot be a shown failure"),
    ],
)
def test_wrong_studies_say_what_is_wrong(recipe: Path, text: str, expected: str) -> None:
    assert expected in _error(recipe, text, StudyRecipe)


def test_a_study_has_three_methods_and_three_seeds_by_default(recipe: Path) -> None:
    recipe.write_text(STUDY, encoding="utf-8")
    study = load_recipe(StudyRecipe, recipe)
    assert [arm.name for arm in study.arms] == ["sft", "seqkd", "logits"]
    assert study.seeds == (0, 1, 2)


def test_overrides_reach_every_depth_and_lists(recipe: Path) -> None:
    recipe.write_text(STUDY + "arms: [sft, {name: b, method: logits}]\n", encoding="utf-8")
    study = load_recipe(
        StudyRecipe, recipe, ["training.steps=7", "training.learning_rate=1e-3", "seeds=[4]", "arms.1.name=c"]
    )
    assert (study.training.steps, study.training.learning_rate) == (7, 1e-3)
    assert study.seeds == (4,) and study.arms[1].name == "c"


@pytest.mark.parametrize("override", ["steps", "=3", "arms.7=sft", "training.steps=[1"])
def test_an_override_that_cannot_be_applied_is_refused(override: str) -> None:
    with pytest.raises(ConfigError):
        apply_overrides({"arms": ["sft"]}, [override])


def test_an_override_does_not_change_the_values_it_is_given() -> None:
    values = {"training": {"steps": 1}}
    assert apply_overrides(values, ["training.steps=2"]) == {"training": {"steps": 2}}
    assert values == {"training": {"steps": 1}}


def test_environment_variables_are_replaced(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_FOLDER", "/x")
    recipe.write_text("student: {path: '${SOME_FOLDER}/m'}\ndata: {train: {path: '${NOT_SET:-y}/d'}}\n")
    loaded = load_recipe(RunRecipe, recipe)
    assert (loaded.student.path, loaded.data.train.path) == ("/x/m", "y/d")


def test_a_recipe_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_recipe(RunRecipe, tmp_path / "none.yaml")
    broken = tmp_path / "latin.yaml"
    broken.write_bytes("name: Käse".encode("latin-1"))
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_recipe(RunRecipe, broken)


def test_every_recipe_that_users_copy_is_valid() -> None:
    folder = Path(__file__).resolve().parents[2] / "recipes"
    recipes = sorted(folder.glob("*.yaml"))
    assert recipes
    for path in recipes:
        command = "compare" if isinstance(load_any(path, []), StudyRecipe) else "train"
        assert f"distillab {command} recipes/{path.name}" in path.read_text(encoding="utf-8").splitlines()[0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ("teacher: {path: t, cache: c}\nteacher_signals: online\n", "online never reads the cache c"),
        ("cache: {kinds: [{kind: text}]}\n", "remove text"),
        ("teacher_signals: online\ncache: {seed: 1}\n", "settings under cache have no effect"),
    ],
)
def test_a_study_that_contradicts_itself_about_its_cache_is_refused(recipe: Path, changes: str, expected: str) -> None:
    text = RUN + ("" if changes.startswith("teacher: {") else "teacher: {path: t}\n")
    assert expected in _error(recipe, text + changes, StudyRecipe)


def test_a_cache_alone_is_a_teacher(recipe: Path) -> None:
    recipe.write_text(RUN + "teacher: {cache: s3://bucket/name}\nmethod: logits\n", encoding="utf-8")
    teacher = load_recipe(RunRecipe, recipe).teacher
    assert teacher is not None
    assert (teacher.path, teacher.source) == (None, "s3://bucket/name")

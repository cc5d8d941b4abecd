"""Keys of other trainers, keys at another place, and where a wrong setting was written."""

from __future__ import annotations

from pathlib import Path

import pytest

from distillab.cli.recipes import load_any
from distillab.config import RunRecipe, StudyRecipe, load_recipe
from distillab.config.other_trainers import _BY_ADVICE, advice_for
from distillab.errors import ConfigError

RUN = "student: {path: s}\ndata: {train: {path: d}}\n"
STUDY = "student: {path: s}\nteacher: {path: t}\ndata: {train: {path: d}}\n"


def _said(
    tmp_path: Path, text: str, *overrides: str, kind: type[RunRecipe] | type[StudyRecipe] = RunRecipe
) -> ConfigError:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load_recipe(kind, recipe, overrides)
    return error.value


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("lora: {r: 8}", "student: {adapter: {kind: lora"),
        ("use_dora: true", "plain LoRA"),
        ("load_in_4bit: true", "student.quantization"),
        ("training: {load_in_8bit: true}", "teacher.quantization"),
        ("report_to: wandb", "metrics.jsonl"),
        ("push_to_hub: true", "hf upload"),
        ("training: {num_epochs: 3}", "training.steps = epochs"),
        ("num_train_epochs: 3", "training.steps = epochs"),
        ("training: {lr: 1e-4}", "write training.learning_rate"),
        ("lr: 1e-4", "write training.learning_rate"),
        ("on_policy: true", "write method: on_policy or gkd"),
        ("lmbda: 0.5", "write method: on_policy or gkd"),
        ("temperature: 2", "teacher_answers.temperature"),
        ("beta: 0.5", "divergence: forward_kl"),
        ("bf16: true", "training.precision: bfloat16"),
        ("max_seq_length: 512", "data.max_tokens"),
        ("cutoff_len: 512", "data.max_tokens"),
        ("sequence_len: 512", "data.max_tokens"),
        ("gradient_accumulation_steps: 4", "training.microbatch_size"),
        ("per_device_train_batch_size: 4", "training.microbatch_size"),
        ("warmup_ratio: 0.1", "training.warmup_steps"),
        ("sample_packing: true", "training.packing"),
        ("val_set_size: 0.1", "data.held_out"),
        ("model_name_or_path: m", "student: {path"),
        ("base_model: m", "student: {path"),
        ("teacher_model_name_or_path: m", "teacher: {path"),
        ("output_dir: here", "write output"),
        ("deepspeed: zero3.json", "torchrun"),
        ("trust_remote_code: true", "never run"),
        ("use_vllm: true", "cache build"),
        ("train_on_inputs: false", "prompts are never trained on"),
        ("save_steps: 10", "training.checkpoint_every"),
        ("resume_from_checkpoint: true", "same command resumes"),
        ("early_stopping_patience: 3", "one budget"),
    ],
)
def test_a_key_of_another_trainer_is_answered_with_what_exists(tmp_path: Path, key: str, expected: str) -> None:
    message = str(_said(tmp_path, RUN + key + "\n"))
    assert "no such key" in message and expected in message
    assert "did you mean" not in message


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("learning_rate: 1e-4", "write training.learning_rate or warm_start.learning_rate or "),
        ("batch_size: 4", "training.batch_size"),
        ("training: {max_tokens: 64}", "write data.max_tokens"),
        ("training: {template: chat}", "write data.template"),
        ("gradient_checkpointing: true", "write training.gradient_checkpointing"),
        ("dtype: bfloat16", "write student.dtype or teacher.dtype"),
        ("data: {train: {path: d}, seeed: 1}", 'did you mean "seed"?'),
    ],
)
def test_a_key_at_another_place_is_answered_with_its_place(tmp_path: Path, key: str, expected: str) -> None:
    text = key if key.startswith("data") else RUN + key
    assert expected in str(_said(tmp_path, ("student: {path: s}\n" if key.startswith("data") else "") + text + "\n"))


def test_no_key_is_answered_twice_and_none_exists_here_at_its_place() -> None:
    keys = [key for words in _BY_ADVICE.values() for key in words.split()]
    assert len(keys) == len(set(keys)) > 200
    assert not set(keys) & (RunRecipe.model_fields.keys() | StudyRecipe.model_fields.keys())
    assert advice_for("Learning-Rate-Student") == "write training.learning_rate"
    assert advice_for("nothing_of_this_name") is None


def test_what_an_override_sets_is_not_said_of_the_file(tmp_path: Path) -> None:
    alone = _said(tmp_path, RUN, "training.steps=0", "training.lr=1")
    assert alone.where == "the command line"
    assert all("(given by training." in fact for fact in alone.facts) and len(alone.facts) == 2
    both = _said(tmp_path, RUN + "sed: 1\n", "training.steps=0")
    assert both.where == str(tmp_path / "recipe.yaml")
    (of_file,) = [fact for fact in both.facts if "given by" not in fact]
    assert of_file.startswith("sed: no such key")
    for given in ("student.path=https://me:word@host/x", "output=${DISTILLAB_NOT_SET}"):
        assert _said(tmp_path, RUN, given).where == f"the command line, {given.partition('=')[0]}"


def test_what_an_override_replaces_need_not_be_set(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RUN + "output: ${DISTILLAB_NOT_SET}/x\n")
    with pytest.raises(ConfigError, match="DISTILLAB_NOT_SET, which is not set"):
        load_recipe(RunRecipe, path)
    assert load_recipe(RunRecipe, path, ["output=there"]).output == "there"


def test_a_recipe_of_a_run_is_no_study_and_the_other_way_round(tmp_path: Path) -> None:
    run = _said(tmp_path, STUDY + "method: logits\nseed: 3\n", kind=StudyRecipe)
    assert run.facts == ("it has: method, seed",)
    assert run.fix is not None and run.fix.startswith(f"distillab train {tmp_path / 'recipe.yaml'}")
    study = _said(tmp_path, STUDY + "arms: [sft]\nseeds: [0]\n")
    assert study.facts == ("it has: arms, seeds",)
    assert study.fix is not None and study.fix.startswith("distillab compare")


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    for load in (lambda: load_recipe(RunRecipe, tmp_path), lambda: load_any(tmp_path, ())):
        with pytest.raises(ConfigError, match="not a folder"):
            load()
    (tmp_path / "mine.yaml").write_text(RUN)
    with pytest.raises(ConfigError) as error:
        load_recipe(RunRecipe, tmp_path)
    assert error.value.fix == f"give the file: {tmp_path / 'mine.yaml'}"


@pytest.mark.parametrize("output", ["hf://me/model", "s3://bucket/run", "https://huggingface.co/me/model"])
@pytest.mark.parametrize("kind", [RunRecipe, StudyRecipe])
def test_output_is_a_folder_of_this_machine(
    tmp_path: Path, output: str, kind: type[RunRecipe] | type[StudyRecipe]
) -> None:
    message = str(_said(tmp_path, STUDY + f"output: {output}\n", kind=kind))
    assert "output: the output must be a folder of this machine" in message and output in message


@pytest.mark.parametrize("text", ["a: \x00", "\x00", "student: {path: s\x07}"])
def test_a_character_that_yaml_does_not_have(tmp_path: Path, text: str) -> None:
    error = _said(tmp_path, text)
    assert error.rule == "The recipe is not YAML."

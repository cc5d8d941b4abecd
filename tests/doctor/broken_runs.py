"""The investigation's two errors, run for real: a batch file, the logs of both, and nothing that says what they are."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from distillab.config.data import DataConfig, HeldOutConfig, SourceConfig
from distillab.config.evaluation import EvaluationConfig
from distillab.config.run import RunRecipe
from distillab.config.student import StudentConfig
from distillab.config.teacher import TeacherConfig
from distillab.config.terms import TokenDivergenceConfig
from distillab.config.training import TrainingConfig
from distillab.demo.broken_batch import save_batch
from distillab.demo.failures import PromptPositions
from distillab.demo.world import write_world
from distillab.runs.run import execute

RUNS = ("positions", "tokens", "sound")


@dataclass(frozen=True)
class Case:
    """What the doctor is given, and no more.

    Attributes:
        given: folder of batch.safetensors, of the run that predicts the answer at the prompt's positions, and of the
            logs: positions.jsonl of that run, tokens.jsonl of the one that compares other tokens by id, sound.jsonl of
            plain fine-tuning.
        data: rows like those of the runs.
        student, teacher: folders with a tokenizer alone.
    """

    given: Path
    data: Path
    student: Path
    teacher: Path

    @property
    def batch(self) -> Path:
        return self.given / "batch.safetensors"

    def log(self, name: str) -> Path:
        return self.given / f"{name}.jsonl"


def bare_tokenizer(source: Path, folder: Path) -> Path:
    """A copy of the tokenizer's files alone."""
    folder.mkdir(parents=True)
    for path in source.glob("tokenizer*.json"):
        shutil.copy(path, folder)
    return folder


def make_case(
    folder: Path, *, student: Path, teacher: Path, steps: int, teacher_steps: int, runs: tuple[str, ...] = RUNS
) -> Case:
    """Train a small teacher with its own tokens, and up to three students: one sound, two broken.

    Args:
        student, teacher: folders of tokenizers.
        teacher_steps: 0: its weights are random.
        runs: those whose logs are wanted; the others' files are missing.
    """
    world = write_world(folder / "data", seed=0, teacher_rows=600, student_rows=200, held_out_rows=40)
    mine, theirs = (bare_tokenizer(path, folder / "tokenizers" / path.name) for path in (student, teacher))
    plain = RunRecipe(
        name="sound",
        student=StudentConfig(path=str(_shape(folder / "small", mine)), tokenizer=str(mine), init="random"),
        data=DataConfig(
            train=SourceConfig(path=str(world.train)), held_out=HeldOutConfig(path=str(world.held_out)), max_tokens=96
        ),
        method="sft",
        training=TrainingConfig(
            steps=steps, batch_size=16, learning_rate=1e-2, device="cpu", evaluate_every=max(1, steps // 6)
        ),
        evaluation=EvaluationConfig(rows=30, curve_rows=16, generate_rows=0, batch_size=16),
        output=str(folder / "sound"),
    )
    positions = _changed(plain, name="positions", output=str(folder / "positions"), shown_failure="positions")
    given = folder / "given"
    save_batch(positions, PromptPositions, given / "batch.safetensors")
    if "sound" in runs:
        execute(plain)
    if "positions" in runs:
        execute(positions, collator=PromptPositions)
    if "tokens" in runs:
        path = folder / "teacher" / "student"
        shape = _shape(folder / "big", theirs)
        if teacher_steps:
            its_own = _changed(
                plain,
                name="teacher",
                output=str(folder / "teacher"),
                student=StudentConfig(path=str(shape), tokenizer=str(theirs), init="random"),
                data=plain.data.model_copy(update={"train": SourceConfig(path=str(world.teacher))}),
                training=plain.training.model_copy(update={"steps": teacher_steps, "evaluate_every": teacher_steps}),
            )
            execute(its_own)
        else:
            LlamaForCausalLM(LlamaConfig.from_pretrained(shape)).save_pretrained(path)
            shutil.copytree(theirs, path, dirs_exist_ok=True)
        by_id = _changed(
            plain,
            name="tokens",
            output=str(folder / "tokens"),
            method="logits",
            terms=(TokenDivergenceConfig(),),
            teacher=TeacherConfig(path=str(path)),
            shown_failure="wrong tokens",
        )
        execute(by_id)
    for name in runs:
        shutil.copy(folder / name / "metrics.jsonl", given / f"{name}.jsonl")
    return Case(given, world.train, mine, theirs)


def _changed(recipe: RunRecipe, **changes: object) -> RunRecipe:
    return RunRecipe(**{name: getattr(recipe, name) for name in recipe.model_fields_set} | changes)


def _shape(folder: Path, tokenizer: Path) -> Path:
    config = LlamaConfig(
        vocab_size=len(PreTrainedTokenizerFast.from_pretrained(tokenizer)),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    )
    config.save_pretrained(folder)
    return folder

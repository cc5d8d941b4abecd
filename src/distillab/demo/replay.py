"""Replay the investigation: two teachers, one student, both errors, and every valid method.

All settings of the demo are here. It resumes after an interruption.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

from distillab.config.data import DataConfig, HeldOutConfig, SourceConfig
from distillab.config.evaluation import EvaluationConfig
from distillab.config.on_policy import StudentAnswersConfig
from distillab.config.run import RunRecipe
from distillab.config.student import StudentConfig
from distillab.config.study import ArmConfig, StudyRecipe
from distillab.config.teacher import TeacherAnswersConfig, TeacherConfig
from distillab.config.terms import TokenDivergenceConfig
from distillab.config.training import TrainingConfig
from distillab.demo.broken_batch import save_batch
from distillab.demo.failures import PromptPositions
from distillab.demo.models import MAX_POSITIONS, build_model
from distillab.demo.tokenizers import train_tokenizers
from distillab.demo.world import VALUE_PATTERN, WorldFiles, world_files, write_world
from distillab.files import new_folder, read_json, read_json_lines, write_json
from distillab.runs.inputs import MISMATCH
from distillab.runs.lock import held
from distillab.runs.run import execute
from distillab.study.study import Study
from distillab.study.workers import run_jobs

VOCABULARY = 640
TEACHER_ROWS, STUDENT_ROWS, HELD_OUT_ROWS = 30_000, 1_000, 420
TOKENIZER_ROWS = 6_000
WORKERS = 2
SEEDS = (0, 1, 2)

_TEACHER_TRAINING = TrainingConfig(steps=1600, batch_size=32, learning_rate=5e-3, warmup_steps=50, device="cpu")
_STUDENT_TRAINING = TrainingConfig(steps=600, batch_size=16, learning_rate=4.5e-3, device="cpu")
_EVALUATION = EvaluationConfig(
    rows=HELD_OUT_ROWS,
    curve_rows=100,
    generate_rows=200,
    max_new_tokens=32,
    batch_size=100,
    value_pattern=VALUE_PATTERN,
)
_ANSWERS = TeacherAnswersConfig(answers_per_prompt=4, sample=True, max_new_tokens=32, batch_size=100)

_OWN_ANSWERS = StudentAnswersConfig(fraction=0.5, max_new_tokens=16)  # the teacher's have 8 tokens on average

# The divergence alone, for both teachers: then the tokens are all that differs between the two arms.
_KL_ALONE = (TokenDivergenceConfig(),)

POSITIONS, WRONG_TOKENS = "prompt-positions", "logits-wrong-tokens"
_SHIFTED = "predicts the answer's n-th token at the prompt's n-th position"


def prepare_replay(output: Path, *, reproduce: str) -> Study:
    """Build the world, train the teachers, plan the study.

    Args:
        output: folder of everything that the demo makes.
        reproduce: the command that repeats it, for the report.
    Raises:
        ConfigError: another process writes into the folder.
    """
    with held(output):
        return _prepare_replay(output, reproduce=reproduce)


def _prepare_replay(output: Path, *, reproduce: str) -> Study:
    world, same, other = _world(output)
    # a finished teacher is reused: its 30,000 rows are not read again
    tokenizers = {"teacher": same, "teacher-other-tokens": other}
    missing = [name for name in tokenizers if not (output / name / "run.json").exists()]
    kinds: tuple[Literal["teacher", "student"], ...] = ("teacher", "student")
    for kind in kinds:
        _make_shape(output, kind)  # before the jobs, which both read the teacher's
    run_jobs(
        [partial(_train_teacher, output, world, name, tokenizers[name], seed=1) for name in missing], workers=WORKERS
    )
    study = _study(output, world)
    _save_broken_batch(output, study)
    return Study(
        study,
        reproduce=reproduce,
        collators={POSITIONS: PromptPositions},
    )


def _save_broken_batch(output: Path, study: StudyRecipe) -> None:
    path = output / "replay" / "batch.safetensors"
    if not path.exists():
        arm = next(arm for arm in study.arms if arm.name == POSITIONS)
        run = study.run_recipe(arm, SEEDS[0], str(path.parent))
        # this arm has no teacher
        save_batch(run.model_copy(update={"teacher": None}), PromptPositions, path)


def _world(output: Path) -> tuple[WorldFiles, Path, Path]:
    """Return the world's files and the two tokenizers; those of an earlier call are taken as they are."""
    rows = {"teacher_rows": TEACHER_ROWS, "student_rows": STUDENT_ROWS, "held_out_rows": HELD_OUT_ROWS}
    made = output / "world" / "made.json"  # written last
    settings = {**rows, "vocabulary": VOCABULARY, "tokenizer_rows": TOKENIZER_ROWS}
    tokenizers = output / "tokenizers"
    if made.exists() and read_json(made) == settings:
        return world_files(output / "world"), tokenizers / "tokenizer-a", tokenizers / "tokenizer-b"
    world = write_world(output / "world", seed=0, **rows)
    same, other = _tokenizers(world, tokenizers)
    write_json(made, settings)
    return world, same, other


def _tokenizers(world: WorldFiles, folder: Path) -> tuple[Path, Path]:
    rows = read_json_lines(world.teacher)[:TOKENIZER_ROWS]
    # prompt and answer separately: no token must span the border between them
    texts = [text for row in rows for text in (row["prompt"], row["answer"])]
    return train_tokenizers(texts, size=VOCABULARY, folder=folder)


def _train_teacher(output: Path, world: WorldFiles, name: str, tokenizer: Path, *, seed: int) -> None:
    execute(
        RunRecipe(
            name=name,
            student=StudentConfig(path=str(output / "shapes" / "teacher"), tokenizer=str(tokenizer), init="random"),
            data=_data(world.teacher, world),
            method="sft",
            training=_TEACHER_TRAINING,
            evaluation=_EVALUATION.model_copy(update={"generate_rows": 0}),
            seed=seed,
            output=str(output / name),
        )
    )


def _make_shape(output: Path, kind: Literal["teacher", "student"]) -> None:
    shape = output / "shapes" / kind
    if not (shape / "config.json").exists():
        with new_folder(shape, replace=True) as made:
            build_model(kind, VOCABULARY, 0).config.save_pretrained(made)


def _data(train: Path, world: WorldFiles) -> DataConfig:
    return DataConfig(
        train=SourceConfig(path=str(train)), held_out=HeldOutConfig(path=str(world.held_out)), max_tokens=MAX_POSITIONS
    )


def _study(output: Path, world: WorldFiles) -> StudyRecipe:
    other = TeacherConfig(path=str(output / "teacher-other-tokens" / "student"))
    return StudyRecipe(
        title="The investigation, replayed on a toy world",
        student=StudentConfig(
            path=str(output / "shapes" / "student"), tokenizer=str(output / "tokenizers" / "tokenizer-a"), init="random"
        ),
        teacher=TeacherConfig(path=str(output / "teacher" / "student")),
        data=_data(world.train, world),
        arms=(
            ArmConfig(name=POSITIONS, method="sft", shown_failure=_SHIFTED),
            ArmConfig(name=WRONG_TOKENS, method="logits", teacher=other, terms=_KL_ALONE, shown_failure=MISMATCH),
            ArmConfig(name="sft", method="sft"),
            ArmConfig(name="seqkd", method="seqkd"),
            ArmConfig(name="seqkd-other-tokens", method="seqkd", teacher=other),
            ArmConfig(name="logits", method="logits", terms=_KL_ALONE),
            ArmConfig(name="on_policy", method="on_policy", answers=_OWN_ANSWERS),
            ArmConfig(name="hidden_states", method="hidden_states"),
            ArmConfig(name="attention", method="attention"),
            ArmConfig(name="white_box", method="white_box"),
            ArmConfig(name="projection-other-tokens", method="vocabulary_projection", teacher=other),
            ArmConfig(name="states-other-tokens", method="span_hidden_states", teacher=other),
        ),
        seeds=SEEDS,
        teacher_answers=_ANSWERS,
        training=_STUDENT_TRAINING,
        evaluation=_EVALUATION,
        workers=WORKERS,
        output=str(output / "study"),
    )

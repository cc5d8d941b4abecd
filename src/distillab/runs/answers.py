"""The rows that a run trains on: the data set's own answers, or the teacher's (sequence-level KD)."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from distillab.config.models import RunRecipe
from distillab.data.encoding import EncodedSplit
from distillab.errors import ConfigError
from distillab.interruption import Interrupted
from distillab.models.loading import context_length, load_config
from distillab.records import AnswersMade, AnswerStoreCounts, read_record, write_record
from distillab.runs.inputs import RunInputs
from distillab.runs.teacher import RunTeacher
from distillab.teachers.answer_identity import answers_identity
from distillab.teachers.answers import answerable, drop_invalid, generate_store, read_store, store_is_complete
from distillab.teachers.protocol import Generates, Prompt

_MADE = "made-{}.json"  # beside the shards; one a worker


def training_rows(
    recipe: RunRecipe, inputs: RunInputs, teacher: RunTeacher, answers_folder: Path
) -> tuple[EncodedSplit, AnswerStoreCounts | None]:
    """The rows a run trains on; the teacher's answers are made now where they are missing.

    A store that is complete is read without the teacher's weights.

    Args:
        answers_folder: where the teacher's answers are kept, unless the recipe's own cache holds them.
    Raises:
        ConfigError: the method reads answers of a teacher, and there is none; or no prompt leaves room for one.
        CacheMismatch: the stored answers belong to another teacher, other prompts or other settings.
        CacheCorrupt: they are damaged.
        DataError: no answer can be used.
    """
    if recipe.resolved().answers == "dataset":
        return inputs.train, None
    if inputs.place is None:
        raise ConfigError("Sequence-level KD needs a teacher.", fix="add teacher: {path: …}")
    if teacher.text is None and not store_is_complete(answers_folder):
        make_answers(recipe, inputs, teacher.generator(), answers_folder)
    assert inputs.teacher is not None  # there is a place, so there is a tokenizer
    location = teacher.text or str(answers_folder)
    prompts = prompts_of(recipe, inputs)
    settings = recipe.teacher_answers
    store = read_store(
        location,
        prompts=prompts,
        settings=settings,
        tokenizer=inputs.teacher.tokenizer,
        fingerprint=_fingerprint(inputs),
        weights_sha256=inputs.place.weights_sha256,
    )
    teacher.provenance = store.identity.teacher
    asked = inputs.train.examples
    kept, counts = drop_invalid(
        store.answers,
        path=location,
        settings=settings,
        prompt_tokens=settings.answers_per_prompt * sum(len(prompt.ids) for prompt in prompts),
        not_asked=len(asked) - len(prompts),
    )
    examples = [
        replace(example.with_answer(answer), key=f"{example.key}/{number}")
        for example in asked
        for number, answer in enumerate(kept.get(example.key, []))
    ]
    split = inputs.student.encoder.encode_all(examples, source=counts.path)
    if counts.with_reasoning and settings.reasoning == "keep" and split.counts.special_in_text:
        teacher.notes.append(
            f"{split.counts.special_in_text} answers spell special tokens of the student's tokenizer (markers of the "
            "reasoning that is kept), which it learns as plain text; teacher_answers.reasoning: strip takes them out"
        )
    return split, counts


def make_answers(
    recipe: RunRecipe,
    inputs: RunInputs,
    teacher: Generates,
    folder: Path,
    *,
    rows_per_shard: int = 32,
    compression: str = "none",
    worker: int = 0,
    workers: int = 1,
) -> None:
    """Let the teacher answer what it has not answered yet. Killed at any instant, it resumes.

    Args:
        rows_per_shard: answers a file, at least; what a kill can cost.
        compression: of the stored answers: none or zstd.
        worker, workers: this process makes the shards with number % workers == worker.
    Raises:
        As `training_rows`.
    """
    assert inputs.teacher is not None  # there are weights, so there is a tokenizer
    prompts = prompts_of(recipe, inputs)
    stop_ids = inputs.teacher.encoder.stop_ids
    identity = answers_identity(
        teacher.identity,
        tokenizer=_fingerprint(inputs),
        stop_ids=stop_ids,
        prompts=prompts,
        settings=recipe.teacher_answers,
        source=f"the prompts of {inputs.splits.sources[0]}",
        rows_per_shard=rows_per_shard,
        compression=compression,
        template_date=inputs.teacher.encoder.template.date,
    )
    made, since = folder / _MADE.format(worker), time.perf_counter()
    before = read_record(AnswersMade, made).seconds if made.exists() else 0.0
    try:
        generate_store(
            folder,
            teacher=teacher,
            tokenizer=inputs.teacher.tokenizer,
            stop_ids=stop_ids,
            prompts=prompts,
            settings=recipe.teacher_answers,
            identity=identity,
            worker=worker,
            workers=workers,
        )
    except Interrupted:  # its time was spent, and what it wrote is kept
        write_record(AnswersMade(seconds=before + time.perf_counter() - since), made)
        raise
    write_record(AnswersMade(seconds=before + time.perf_counter() - since), made)


def seconds_of(folder: Path) -> float | None:
    """What the answers of a store have taken to write, all workers together; None where nobody counted.

    Raises:
        DataError: a record of it is damaged.
    """
    made = sorted(folder.glob(_MADE.format("*")))
    return sum(read_record(AnswersMade, path).seconds for path in made) if made else None


def prompts_of(recipe: RunRecipe, inputs: RunInputs) -> list[Prompt]:
    """The prompts of the training rows that leave room for an answer, as the teacher reads them.

    Raises:
        ConfigError: none does.
    """
    assert inputs.teacher is not None
    assert inputs.place is not None
    encoder = inputs.teacher.encoder
    prompts = [Prompt(example.key, tuple(encoder.encode_prompt(example))) for example in inputs.train.examples]
    context = context_length(load_config(inputs.place.config, revision=inputs.place.revision))
    return answerable(prompts, context=context, max_new_tokens=recipe.teacher_answers.max_new_tokens)


def _fingerprint(inputs: RunInputs) -> str:
    assert inputs.contract is not None
    return inputs.contract.teacher.fingerprint

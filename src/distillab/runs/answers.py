"""Generate and read training rows with the teacher's answers (sequence-level KD)."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from distillab.data.encoding import EncodedSplit
from distillab.data.example_table import BATCH_ROWS
from distillab.interruption import Interrupted
from distillab.paths import is_url, local_path
from distillab.records import AnswersMade, AnswerStoreCounts, TeacherProvenance, read_record, write_record
from distillab.runs.inputs import RunInputs
from distillab.teachers.protocol import Generates, Prompt
from distillab.teachers.served.cost import served_cost
from distillab.teachers.served.journal import FOLDER, paid_in
from distillab.teachers.stored.answer_identity import answers_identity
from distillab.teachers.stored.answers import answerable, drop_invalid, generate_store, read_store

_MADE = "made-{}.json"  # beside the shards, one file a worker


@dataclass(frozen=True, eq=False)
class AnswerRows:
    """Training rows with the teacher's answers.

    Attributes:
        split: the rows, for the student.
        counts: of used and dropped answers.
        teacher: that generated them.
        notes: remarks for the reader of the run's record.
    """

    split: EncodedSplit
    counts: AnswerStoreCounts
    teacher: TeacherProvenance
    notes: tuple[str, ...]


def read_answers(inputs: RunInputs, location: str) -> AnswerRows:
    """Return the training rows with the answers of a complete store; the teacher's weights are not needed.

    Args:
        location: of the store.
    Raises:
        TeacherError: the recipe names no teacher.
        ConfigError: no prompt leaves room for an answer.
        CacheMismatch: the stored answers belong to another teacher, other prompts or other settings.
        CacheCorrupt: they are damaged.
        DataError: no answer can be used.
    """
    view, settings, prompts = inputs.require_teacher(), inputs.recipe.teacher_answers, prompts_of(inputs)
    store = read_store(
        location,
        prompts=prompts,
        settings=settings,
        tokenizer=view.reader.tokenizer,
        fingerprint=view.contract.teacher.fingerprint,
        weights_sha256=view.spec.weights_sha256,
    )
    examples = inputs.train.examples
    kept, counts = drop_invalid(
        store.answers,
        path=location,
        settings=settings,
        prompt_tokens=settings.answers_per_prompt * sum(len(prompt.ids) for prompt in prompts),
        not_asked=len(examples) - len(prompts),
    )
    answered = [
        replace(example.with_answer(answer), key=f"{example.key}/{number}")
        for example in examples
        for number, answer in enumerate(kept.get(example.key, []))
    ]
    if not is_url(location):
        prices = None if view.spec.settings.server is None else view.spec.settings.server.prices
        served = served_cost(paid_in(local_path(location) / FOLDER), prices)
        counts = counts.model_copy(update={"served": served})
    split = inputs.student.encoder.encode_all(answered, source=counts.path)
    notes: tuple[str, ...] = ()
    if counts.with_reasoning and settings.reasoning == "keep" and split.counts.special_in_text:
        notes = (
            f"{split.counts.special_in_text} answers spell special tokens of the student's tokenizer (markers of the "
            "reasoning that is kept), which it learns as plain text; teacher_answers.reasoning: strip removes them",
        )
    return AnswerRows(split, counts, store.identity.teacher, notes)


def make_answers(
    inputs: RunInputs,
    teacher: Generates,
    folder: Path,
    *,
    rows_per_shard: int = 32,
    compression: str = "none",
    worker: int = 0,
    workers: int = 1,
) -> None:
    """Generate the missing answers of the teacher. It resumes after an interruption.

    Args:
        rows_per_shard: answers a file, at least; an interruption costs at most these.
        compression: of the stored answers: none or zstd.
        worker, workers: this process makes the shards with number % workers == worker.
    Raises:
        TeacherError: the recipe names no teacher.
        ConfigError: no prompt leaves room for an answer.
        CacheMismatch: the folder holds answers of another teacher, to other prompts or with other settings.
    """
    view, settings, prompts = inputs.require_teacher(), inputs.recipe.teacher_answers, prompts_of(inputs)
    encoder = view.reader.encoder
    identity = answers_identity(
        teacher.identity,
        tokenizer=view.contract.teacher.fingerprint,
        stop_ids=encoder.stop_ids,
        prompts=prompts,
        settings=settings,
        source=f"the prompts of {inputs.splits.sources[0]}",
        rows_per_shard=rows_per_shard,
        compression=compression,
        template_date=encoder.template.date,
    )
    made, since = folder / _MADE.format(worker), time.perf_counter()
    before = read_record(AnswersMade, made).seconds if made.exists() else 0.0
    try:
        generate_store(
            folder,
            teacher=teacher,
            tokenizer=view.reader.tokenizer,
            stop_ids=encoder.stop_ids,
            prompts=prompts,
            settings=settings,
            identity=identity,
            worker=worker,
            workers=workers,
        )
    except Interrupted:  # its time was spent, and its answers are kept
        write_record(AnswersMade(seconds=before + time.perf_counter() - since), made)
        raise
    write_record(AnswersMade(seconds=before + time.perf_counter() - since), made)


def seconds_of(folder: Path) -> float | None:
    """Return the seconds that a store's answers took to generate, all workers together; None if not counted.

    Raises:
        DataError: a record of it is damaged.
    """
    made = sorted(folder.glob(_MADE.format("*")))
    return sum(read_record(AnswersMade, path).seconds for path in made) if made else None


def prompts_of(inputs: RunInputs) -> list[Prompt]:
    """Return the prompts of the training rows that leave room for an answer, as the teacher reads them.

    Raises:
        ConfigError: none does.
    """
    view = inputs.require_teacher()
    read = view.as_read(inputs.train.examples, where=inputs.splits.sources[0])
    served = view.spec.settings.server is not None
    prompts, examples = list[Prompt](), iter(read)
    while some := list(islice(examples, BATCH_ROWS)):
        prompts += [
            Prompt(example.key, tuple(ids), example.asked if served else ())
            for example, ids in zip(some, view.reader.encoder.encode_prompts(some), strict=True)
        ]
    return answerable(prompts, context=view.context, max_new_tokens=inputs.recipe.teacher_answers.max_new_tokens)

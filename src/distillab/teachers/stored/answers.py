"""Sequence-level KD: generate the teacher's answer to every prompt once, into a cache that can be resumed.

A store is a cache folder of kind `text`: a row is a prompt with the teacher's answer. Batches do not depend on
interruptions, and sampling is seeded by batch, so a resumed store equals an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from distillab.cache.identity import CacheIdentity
from distillab.cache.reader import CacheReader
from distillab.cache.rows import CachedRow
from distillab.cache.writer import CacheWriter
from distillab.config.teacher import TeacherAnswersConfig
from distillab.errors import CacheMismatch, ConfigError, DataError
from distillab.models.generation import Decoding
from distillab.progress import Progress
from distillab.records import AnswerStoreCounts
from distillab.teachers.protocol import Generates, Prompt, Sampling, announce
from distillab.teachers.reasoning import AnswerText
from distillab.teachers.stored.answer_identity import require_answers_to
from distillab.teachers.stored.answer_rows import Answer, AnswerRows

_READ_ROWS = 1024
_OLD_FILES = ("answers.jsonl", "provenance.json")


@dataclass(frozen=True)
class AnswerStore:
    """The answers of a complete store, in the order of the prompts and of their numbers, and their identity."""

    answers: tuple[Answer, ...]
    identity: CacheIdentity


def generate_store(
    folder: Path,
    *,
    teacher: Generates,
    tokenizer: PreTrainedTokenizerBase,
    stop_ids: Sequence[int],
    prompts: Sequence[Prompt],
    settings: TeacherAnswersConfig,
    identity: CacheIdentity,
    worker: int = 0,
    workers: int = 1,
) -> None:
    """Generate the missing answers; of several workers, this one's share.

    Args:
        identity: of these prompts and settings, from `answers_identity`.
        worker: makes the shards with number % workers == worker.
    Raises:
        CacheMismatch: the folder holds answers of another teacher, other prompts or other settings, or is of an
            older version of distillab.
        CacheCorrupt: the store is damaged.
    """
    _refuse_old(folder)
    writer = CacheWriter(folder, identity, worker=worker, workers=workers)
    made = AnswerRows(tokenizer, AnswerText(tokenizer, settings), tuple(stop_ids))
    decoding = Decoding(settings.max_new_tokens, settings.sample, settings.temperature, settings.top_p)
    jobs = _jobs(prompts, settings)
    size = identity.rows_per_shard
    share = [jobs[start : start + size] for start in range(0, len(jobs), size)]
    todo = writer.todo()
    total = sum(map(len, share[worker::workers]))
    missing = sum(len(share[number]) for number in todo)
    announce(teacher, [(len(prompt.ids), decoding.max_new_tokens) for number in todo for prompt, _ in share[number]])
    with Progress("teacher answers", total=total, unit="answers", done=total - missing) as progress:
        for number in todo:
            rows: list[CachedRow] = []
            for start in range(number * size, number * size + len(share[number]), settings.batch_size):
                batch = jobs[start : start + settings.batch_size]
                sampling = Sampling(decoding, tuple(stop_ids), settings.seed * 1_000_003 + start)
                written = teacher.answers([prompt for prompt, _ in batch], sampling)
                rows += [
                    made.row(prompt, number, answer) for (prompt, number), answer in zip(batch, written, strict=True)
                ]
                progress.advance(len(batch))
            writer.write(number, rows)


def store_is_complete(folder: Path) -> bool:
    """Return True if the store in `folder` has every answer; False if not, or if there is no store.

    Raises:
        CacheMismatch: the store is of an older version of distillab.
        CacheCorrupt: the store is damaged.
    """
    _refuse_old(folder)
    return (folder / "identity.json").exists() and CacheReader(folder).complete


def read_store(
    location: str | Path,
    *,
    prompts: Sequence[Prompt],
    settings: TeacherAnswersConfig,
    tokenizer: PreTrainedTokenizerBase,
    fingerprint: str,
    weights_sha256: str | None,
) -> AnswerStore:
    """Return all answers of a store.

    Args:
        location: folder, or fsspec URL.
        tokenizer: the one that made the prompts' ids; it finds the answers that hold reasoning.
        fingerprint: of it.
        weights_sha256: of the expected teacher; None: any.
    Raises:
        CacheMismatch: the store is for other prompts or settings, or is not complete.
        CacheCorrupt: the store is damaged.
    """
    _refuse_old(location)
    reader = CacheReader(location)
    require_answers_to(
        reader.identity,
        prompts=prompts,
        settings=settings,
        tokenizer=fingerprint,
        weights_sha256=weights_sha256,
        where=str(location),
    )
    reader.require_complete()
    jobs = _jobs(prompts, settings)
    stored = AnswerRows(tokenizer, AnswerText(tokenizer, settings))
    answers: dict[tuple[str, int], Answer] = {}
    for start in range(0, len(jobs), _READ_ROWS):
        here = range(start, min(start + _READ_ROWS, len(jobs)))
        for place, row in zip(here, reader.read(here, ["text"]), strict=True):
            prompt, number = jobs[place]
            answers[prompt.key, number] = stored.answer(row, prompt, number, where=str(location))
    wanted = [(prompt.key, number) for prompt in prompts for number in range(settings.answers_per_prompt)]
    return AnswerStore(tuple(answers[key] for key in wanted), reader.identity)


def answerable(prompts: Sequence[Prompt], *, context: int | None, max_new_tokens: int) -> list[Prompt]:
    """Return the prompts that have a token, and leave room for an answer in the teacher's context.

    Raises:
        ConfigError: none does.
    """
    begun = [prompt for prompt in prompts if prompt.ids]
    kept = [prompt for prompt in begun if context is None or len(prompt.ids) + max_new_tokens <= context]
    if not begun:
        raise ConfigError(
            "No prompt has a token, so the teacher cannot continue it.",
            facts=[f"{len(prompts)} prompts"],
            fix="use texts of more than one character, or rows with a prompt",
        )
    if not kept:
        raise ConfigError(
            "No prompt leaves room for an answer in the teacher's context.",
            facts=[
                f"shortest prompt {min(len(prompt.ids) for prompt in begun)} tokens",
                f"teacher_answers.max_new_tokens {max_new_tokens}",
                f"context {context}",
            ],
            fix="lower teacher_answers.max_new_tokens",
        )
    return kept


def drop_invalid(
    answers: Sequence[Answer],
    *,
    path: str,
    settings: TeacherAnswersConfig,
    prompt_tokens: int,
    not_asked: int = 0,
) -> tuple[dict[str, list[str]], AnswerStoreCounts]:
    """Return valid answers by row key, and count the others: empty, truncated, filtered, repeated for a prompt.

    Args:
        settings: whether answers that were cut off are kept.
        prompt_tokens: number of tokens that the teacher read for all answers.
        not_asked: prompts that were left out before (see `answerable`), for the counts.
    Raises:
        DataError: no answer is left.
    """
    kept: dict[str, list[str]] = {}
    empty = cut = twice = thought = filtered = refused = 0
    for item in answers:
        if item.finish == "filtered":
            filtered += 1
        elif item.finish == "refused":
            refused += 1
        elif item.unfinished and not item.answer.strip():
            thought += 1
        elif not item.answer.strip():
            empty += 1
        elif item.finish == "length" and not settings.keep_cut_off:
            cut += 1
        elif item.answer in kept.get(item.key, []):
            twice += 1
        else:
            kept.setdefault(item.key, []).append(item.answer)
    written = sum(item.tokens for item in answers)
    counts = AnswerStoreCounts(
        path=path,
        prompts=len({item.key for item in answers}),
        generated=len(answers),
        kept=sum(map(len, kept.values())),
        teacher_tokens=prompt_tokens + written,
        generated_tokens=written,
        dropped_empty=empty,
        dropped_cut_off=cut,
        dropped_duplicate=twice,
        dropped_filtered=filtered,
        dropped_refused=refused,
        dropped_unfinished_reasoning=thought,
        with_reasoning=sum(item.reasoned for item in answers),
        reasoning=settings.reasoning,
        not_asked=not_asked,
    )
    if not kept:
        raise DataError(
            "No answer of the teacher can be used.",
            where=path,
            facts=[
                f"generated {len(answers)}",
                f"empty {empty}",
                f"cut off at max_new_tokens {cut}",
                f"reasoning without an end {thought}",
                f"filtered by the server {filtered}",
                f"not answered by the server {refused}",
            ],
            fix="raise teacher_answers.max_new_tokens, set its keep_cut_off, or check the template of the prompts",
        )
    return kept, counts


def _refuse_old(location: str | Path) -> None:
    """Refuse the answers of version 0.1: their identity was written in another way, so it cannot be compared."""
    there = [name for name in _OLD_FILES if (Path(location) / name).exists()]
    if there:
        raise CacheMismatch(
            "The folder holds answers that distillab 0.1 stored; this version reads caches.",
            where=str(location),
            facts=[f"there is {' and '.join(there)}"],
            fix="use another folder, or delete this one and generate the answers again",
        )


def _jobs(prompts: Sequence[Prompt], settings: TeacherAnswersConfig) -> list[tuple[Prompt, int]]:
    """Return what a store has to answer, sorted by length, then by key, so that batches are always the same."""
    jobs = [(prompt, number) for prompt in prompts for number in range(settings.answers_per_prompt)]
    return sorted(jobs, key=lambda job: (len(job[0].ids), job[0].key, job[1]))

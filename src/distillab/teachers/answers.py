"""Sequence-level KD: the teacher answers every prompt, once, into a file that a kill cannot spoil.

A store is a folder with `provenance.json` (who answered what, and how) and `answers.jsonl` (one line an
answer). Batches are the same however often the work is interrupted, and sampling is seeded by batch, so a
resumed store equals an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distillab.config.models import TeacherAnswersConfig
from distillab.errors import CacheCorrupt, CacheMismatch, ConfigError, DataError
from distillab.models.generation import Decoding, continuation_text, generate_batches
from distillab.progress import Progress
from distillab.records import AnswerStoreCounts, TeacherProvenance


@dataclass(frozen=True)
class Answer:
    """One line of a store. `finish` is "stop" (ended by itself) or "length" (cut at max_new_tokens)."""

    key: str
    number: int
    answer: str
    finish: str
    tokens: int


@dataclass(frozen=True)
class Prompt:
    """What is asked: the row's key and the prompt as the teacher reads it."""

    key: str
    ids: tuple[int, ...]


def store_provenance(
    teacher: TeacherProvenance, tokenizer_fingerprint: str, prompts: Sequence[Prompt], settings: TeacherAnswersConfig
) -> dict[str, Any]:
    """Everything that decides the answers. Two stores with equal provenance hold equal answers."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(json.dumps([prompt.key, list(prompt.ids)]).encode())
    # keep_cut_off decides what is kept later, not what is generated
    decoding = settings.model_dump(exclude={"keep_cut_off"})
    return {
        "schema_version": 1,
        "teacher": teacher.model_dump(),
        "tokenizer": tokenizer_fingerprint,
        "prompts": len(prompts),
        "prompts_sha256": digest.hexdigest(),
        "decoding": decoding,
    }


def generate_store(
    folder: Path,
    *,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    stop_ids: Sequence[int],
    prompts: Sequence[Prompt],
    settings: TeacherAnswersConfig,
    provenance: Mapping[str, Any],
) -> list[Answer]:
    """All answers of the store, generating those that are not there yet.

    Raises:
        CacheMismatch: the folder holds answers of another teacher, other prompts or other settings.
        CacheCorrupt: a finished line is damaged.
    """
    _claim(folder, provenance)
    path = folder / "answers.jsonl"
    have = _read(path)
    jobs = [(prompt, number) for prompt in prompts for number in range(settings.answers_per_prompt)]
    wanted = [(prompt.key, number) for prompt, number in jobs]
    missing = sum(key not in have for key in wanted)
    if missing:
        _generate(path, model, tokenizer, stop_ids, jobs, settings, have, missing)
    return [have[key] for key in wanted]


def askable(prompts: Sequence[Prompt], *, context: int | None, max_new_tokens: int) -> list[Prompt]:
    """The prompts that leave room for an answer in the teacher's context.

    Raises:
        ConfigError: none does.
    """
    if context is None:
        return list(prompts)
    kept = [prompt for prompt in prompts if len(prompt.ids) + max_new_tokens <= context]
    if not kept:
        raise ConfigError(
            "No prompt leaves room for an answer in the teacher's context.",
            facts=[
                f"shortest prompt {min(len(prompt.ids) for prompt in prompts)} tokens",
                f"teacher_answers.max_new_tokens {max_new_tokens}",
                f"context {context}",
            ],
            fix="lower teacher_answers.max_new_tokens",
        )
    return kept


def keep_usable(
    answers: Sequence[Answer], *, path: Path, keep_cut_off: bool, prompt_tokens: int, not_asked: int = 0
) -> tuple[dict[str, list[str]], AnswerStoreCounts]:
    """The answers worth learning from, by row key, and what was dropped: empty, cut off, said twice for one prompt.

    Args:
        prompt_tokens: that the teacher read for all answers.
        not_asked: prompts that were left out before (see `askable`), for the counts.
    Raises:
        DataError: no answer is left.
    """
    kept: dict[str, list[str]] = {}
    empty = cut = twice = 0
    for item in answers:
        if not item.answer.strip():
            empty += 1
        elif item.finish == "length" and not keep_cut_off:
            cut += 1
        elif item.answer in kept.get(item.key, []):
            twice += 1
        else:
            kept.setdefault(item.key, []).append(item.answer)
    counts = AnswerStoreCounts(
        path=str(path),
        prompts=len({item.key for item in answers}),
        generated=len(answers),
        kept=sum(map(len, kept.values())),
        teacher_tokens=prompt_tokens + sum(item.tokens for item in answers),
        dropped_empty=empty,
        dropped_cut_off=cut,
        dropped_duplicate=twice,
        not_asked=not_asked,
    )
    if not kept:
        raise DataError(
            "No answer of the teacher can be used.",
            where=str(path),
            facts=[f"generated {len(answers)}", f"empty {empty}", f"cut off at max_new_tokens {cut}"],
            fix="raise teacher_answers.max_new_tokens, set its keep_cut_off, or look at the template of the prompts",
        )
    return kept, counts


def _claim(folder: Path, provenance: Mapping[str, Any]) -> None:
    """Write the provenance of a new store, or compare it with the one that is there."""
    path = folder / "provenance.json"
    text = json.dumps(provenance, indent=2, sort_keys=True)
    if path.exists():
        there = json.loads(path.read_text(encoding="utf-8"))
        differing = [key for key in sorted({*there, *provenance}) if there.get(key) != json.loads(text).get(key)]
        if differing:
            facts = [f"{key}: stored {there.get(key)}; this run {provenance.get(key)}" for key in differing]
            raise CacheMismatch(
                "The stored answers belong to another teacher, other prompts or other settings.",
                where=str(folder),
                facts=facts,
                fix="use another output folder, or delete this one",
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(path)


def _read(path: Path) -> dict[tuple[str, int], Answer]:
    """Finished lines by (key, number). A last line without its newline was being written when the process died."""
    if not path.exists():
        return {}
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) != len(data):
        with path.open("r+b") as stream:
            stream.truncate(len(whole))
    have = {}
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            answer = Answer(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise CacheCorrupt(
                "A stored answer is damaged.",
                where=f"{path}, line {number}",
                fix="delete this line; it will be made again",
            ) from error
        have[(answer.key, answer.number)] = answer
    return have


def _generate(
    path: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    stop_ids: Sequence[int],
    jobs: Sequence[tuple[Prompt, int]],
    settings: TeacherAnswersConfig,
    have: dict[tuple[str, int], Answer],
    missing: int,
) -> None:
    decoding = Decoding(settings.max_new_tokens, settings.sample, settings.temperature, settings.top_p)
    # like lengths together; ties by key, so that batches never depend on what is there already
    jobs = sorted(jobs, key=lambda job: (len(job[0].ids), job[0].key, job[1]))
    with (
        path.open("ab") as stream,
        Progress("teacher answers", total=len(jobs), unit="answers", done=len(jobs) - missing) as progress,
    ):
        for start in range(0, len(jobs), settings.batch_size):
            batch = jobs[start : start + settings.batch_size]
            if all((prompt.key, number) in have for prompt, number in batch):
                continue
            torch.manual_seed(settings.seed * 1_000_003 + start)
            generated = next(
                generate_batches(
                    model,
                    [prompt.ids for prompt, _ in batch],
                    decoding=decoding,
                    stop_ids=stop_ids,
                    batch_size=len(batch),
                )
            )
            for (prompt, number), output in zip(batch, generated, strict=True):
                if (prompt.key, number) in have:
                    continue
                answer = Answer(
                    key=prompt.key,
                    number=number,
                    answer=continuation_text(tokenizer, prompt.ids, output.ids),
                    finish="stop" if output.stopped else "length",
                    tokens=len(output.ids),
                )
                stream.write(json.dumps(asdict(answer), ensure_ascii=False).encode() + b"\n")
                have[(prompt.key, number)] = answer
                progress.advance()
            stream.flush()
            os.fsync(stream.fileno())

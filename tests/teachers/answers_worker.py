"""Run as a process of its own by `test_answers`: fills a store slowly enough to be killed on the way."""

from __future__ import annotations

import sys
from pathlib import Path

from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from distillab.config.teacher import TeacherAnswersConfig
from distillab.records import TeacherProvenance
from distillab.teachers import LocalTeacher
from distillab.teachers.stored.answer_identity import Prompt, answers_identity
from distillab.teachers.stored.answers import Answer, generate_store, read_store

WORDS = ("cat", "dog", "bird", "boy", "girl", "tree", "fish", "bee")
TEACHER = TeacherProvenance(name="t", weights_sha256="0", parameters=1, dtype="float32", template_sha256="0")
SETTINGS = TeacherAnswersConfig(sample=True, answers_per_prompt=3, max_new_tokens=48, batch_size=3, seed=5)


def fill(
    folder: Path, model_path: Path, settings: TeacherAnswersConfig, *, worker: int = 0, workers: int = 1
) -> PreTrainedTokenizerFast:
    """Make a worker's share of the store, a batch a shard; the default is all of it."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model_path)
    teacher = LocalTeacher(AutoModelForCausalLM.from_pretrained(model_path), TEACHER)
    asked = prompts(tokenizer)
    stop_ids = [tokenizer.eos_token_id]
    generate_store(
        folder,
        teacher=teacher,
        tokenizer=tokenizer,
        stop_ids=stop_ids,
        prompts=asked,
        settings=settings,
        identity=answers_identity(
            teacher.identity,
            tokenizer="tokens",
            stop_ids=stop_ids,
            prompts=asked,
            settings=settings,
            source="prompts",
            rows_per_shard=1,
        ),
        worker=worker,
        workers=workers,
    )
    return tokenizer


def answers(folder: Path, tokenizer: PreTrainedTokenizerFast, settings: TeacherAnswersConfig) -> tuple[Answer, ...]:
    """All answers of the store."""
    return read_store(
        folder,
        prompts=prompts(tokenizer),
        settings=settings,
        tokenizer=tokenizer,
        fingerprint="tokens",
        weights_sha256=TEACHER.weights_sha256,
    ).answers


def prompts(tokenizer: PreTrainedTokenizerFast) -> list[Prompt]:
    texts = [f"Once upon a time there was a {word}" for word in WORDS]
    return [Prompt(f"key{index}", tuple(tokenizer(text)["input_ids"])) for index, text in enumerate(texts)]


if __name__ == "__main__":
    fill(Path(sys.argv[1]), Path(sys.argv[2]), SETTINGS)

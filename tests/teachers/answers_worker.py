"""Run as a process of its own by `test_answers`: fills a store slowly enough to be killed on the way."""

from __future__ import annotations

import sys
from pathlib import Path

from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from distillab.config.models import TeacherAnswersConfig
from distillab.records import TeacherProvenance
from distillab.teachers.answers import Answer, Prompt, generate_store, store_provenance

TEXTS = [
    f"Once upon a time there was a {word}" for word in ("cat", "dog", "bird", "boy", "girl", "tree", "fish", "bee")
]
TEACHER = TeacherProvenance(name="t", weights_sha256="0", parameters=1, dtype="float32", template_sha256="0")


def fill(folder: Path, model_path: Path, settings: TeacherAnswersConfig) -> list[Answer]:
    """All answers of the store."""
    model = AutoModelForCausalLM.from_pretrained(model_path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model_path)
    prompts = [Prompt(f"key{index}", tuple(tokenizer(text)["input_ids"])) for index, text in enumerate(TEXTS)]
    return generate_store(
        folder,
        model=model,
        tokenizer=tokenizer,
        stop_ids=[tokenizer.eos_token_id],
        prompts=prompts,
        settings=settings,
        provenance=store_provenance(TEACHER, "tokens", prompts, settings),
    )


SETTINGS = TeacherAnswersConfig(sample=True, answers_per_prompt=3, max_new_tokens=48, batch_size=3, seed=5)

if __name__ == "__main__":
    fill(Path(sys.argv[1]), Path(sys.argv[2]), SETTINGS)

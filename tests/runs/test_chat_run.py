"""Whole runs of small chat models: what was judged is what is saved, and a teacher's answers are its answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from distillab.cache.reader import CacheReader
from distillab.cache.text import Text
from distillab.config.run import RunRecipe
from distillab.runs.folder import read_held_out
from distillab.runs.run import execute
from tests.models.chat_students import CHATML, chat_reader, fitted, sums, trained

# as R1's: it asks with an open thought, and drops thoughts from answers
OPENS_A_THOUGHT = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'].split('</think>')[-1] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It knows its rows; its generation config knows EOS alone, and penalises repetition."""
    folder = tmp_path_factory.mktemp("student")
    reader = chat_reader(folder, CHATML)
    trained(reader, sums()).save_pretrained(folder)
    own = {"eos_token_id": 0, "pad_token_id": 0, "repetition_penalty": 1.9, "min_new_tokens": 20}
    (folder / "generation_config.json").write_text(json.dumps(own))
    return folder


def _recipe(folder: Path, student: Path, **changes: Any) -> RunRecipe:
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": row.prompt, "completion": row.answer}) + "\n" for row in sums()))
    return RunRecipe(
        student={"path": str(student)},
        data={"train": {"path": str(rows)}, "held_out": {"path": str(rows)}, "max_tokens": 96},
        training={"steps": 1, "batch_size": 4, "learning_rate": 1e-9, "device": "cpu"},
        evaluation={"generate_rows": 4, "max_new_tokens": 24},
        output=str(folder / "out"),
        **changes,
    )


def test_the_saved_student_is_the_judged_one(student: Path, tmp_path: Path) -> None:
    record = execute(_recipe(tmp_path, student))
    assert record.evaluation.value("exact_match") == record.evaluation.value("stopped_by_eos") == 1.0
    saved = tmp_path / "out" / "student"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(saved), AutoTokenizer.from_pretrained(saved)
    for row, judged in zip(sums(), read_held_out(tmp_path / "out" / "held_out.jsonl"), strict=True):
        turns = [{"role": "user", "content": row.prompt}]
        asked = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        written = model.generate(**asked, max_new_tokens=24)[0, asked["input_ids"].shape[1] :]
        assert tokenizer.decode(written, skip_special_tokens=True) == judged["answer"] == row.answer


def test_a_teacher_that_reasons_teaches_its_answers(student: Path, tmp_path: Path) -> None:
    folder = tmp_path / "teacher"
    thought = "I begin and go 4 steps.\n</think>\n\n"
    tokenizer = chat_reader(folder, OPENS_A_THOUGHT, texts=[thought]).tokenizer
    begin = "<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n<think>\n"
    texts = [f"{begin.format(prompt=row.prompt)}{thought}{row.answer}<|im_end|>" for row in sums()]
    batch = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    labels = torch.where(mask.bool(), ids, -100)
    teacher = fitted(len(tokenizer), {"input_ids": ids, "attention_mask": mask, "labels": labels}, 150)
    teacher.save_pretrained(folder)

    settings = {"reasoning": "strip", "max_new_tokens": 48}
    recipe = _recipe(tmp_path, student, method="seqkd", teacher={"path": str(folder)}, teacher_answers=settings)
    record = execute(recipe)
    assert record.answers is not None
    assert (record.answers.with_reasoning, record.answers.kept, record.answers.reasoning) == (4, 4, "strip")
    stored = CacheReader(tmp_path / "out" / "answers").read(range(4), ["text"])
    sections = [row.sections["text"] for row in stored]
    assert {part.answer for part in sections if isinstance(part, Text)} == {row.answer for row in sums()}

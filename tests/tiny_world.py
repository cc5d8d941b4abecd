"""A study small enough for tests: tiny Llamas with random weights, real tokenizer training, the demo's world."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distillab.config.study import StudyRecipe

# What is heavy is imported where it is used: of several processes of tests, the first one runs none.

VOCABULARY = 400


def save_tiny(folder: Path, seed: int, tokenizer: Path, *, layers: int = 1, vocabulary: int = VOCABULARY) -> Path:
    """A tiny Llama with weights and a tokenizer in one folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Values of a small study recipe; every path exists."""
    from distillab.demo.tokenizers import train_tokenizers
    from distillab.demo.world import VALUE_PATTERN, write_world

    folder = tmp_path_factory.mktemp("world")
    files = write_world(folder / "data", seed=0, teacher_rows=600, student_rows=60, held_out_rows=30)
    rows = [json.loads(line) for line in files.teacher.read_text(encoding="utf-8").splitlines()]
    texts = [f"{row['prompt']}\n{row['answer']}" for row in rows]
    same, other = train_tokenizers(texts, size=VOCABULARY, folder=folder / "tokenizers")
    teacher = save_tiny(folder / "teacher", 1, same)
    save_tiny(folder / "stranger", 2, other)
    return {
        "student": {"path": str(save_tiny(folder / "student", 3, same))},
        "teacher": {"path": str(teacher)},
        "data": {"train": {"path": str(files.train)}, "held_out": {"path": str(files.held_out)}, "max_tokens": 96},
        "training": {
            "steps": 4,
            "batch_size": 8,
            "learning_rate": 1e-3,
            "device": "cpu",
            "evaluate_every": 2,
            "checkpoint_every": 4,  # the default is a quarter of the steps; a checkpoint takes longer than a step
        },
        "teacher_answers": {"sample": True, "max_new_tokens": 8, "keep_cut_off": True},
        "evaluation": {
            "rows": 20,
            "curve_rows": 8,
            "generate_rows": 6,
            "max_new_tokens": 8,
            "value_pattern": VALUE_PATTERN,
        },
        "seeds": [0, 1],
    }


@pytest.fixture
def stranger(tiny_world: dict[str, Any]) -> str:
    """A teacher of the same size with other tokens."""
    return str(Path(tiny_world["teacher"]["path"]).with_name("stranger"))


@pytest.fixture
def study_recipe(tiny_world: dict[str, Any], tmp_path: Path) -> StudyRecipe:
    return StudyRecipe(**tiny_world, output=str(tmp_path / "study"))

"""Tokens that somebody added to a tokenizer without resizing its model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.models.chat_students import CHATML, chat_reader

from distillab.config.run import RunRecipe
from distillab.errors import DataError
from distillab.pairing.embedded import require_embedded
from distillab.pairing.loading import LoadedTokenizer, load_tokenizer
from distillab.runs.inputs import load_inputs

Change = Callable[[Any], object]

BEYOND: dict[str, Change] = {
    "padding": lambda tokenizer: tokenizer.add_special_tokens({"pad_token": "[PAD]"}),
    "end": lambda tokenizer: tokenizer.add_special_tokens({"eos_token": "<|end|>"}),
    "begin": lambda tokenizer: tokenizer.add_special_tokens({"bos_token": "<s>"}),
    "words": lambda tokenizer: tokenizer.add_tokens(["plus", "sum"]),
    "template": lambda tokenizer: (
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>"]}),
        setattr(tokenizer, "chat_template", CHATML.replace("<|im_start|>", "<|user|>")),
    ),
}


def _edited(folder: Path, change: Change | None) -> tuple[LoadedTokenizer, int]:
    """A tokenizer after a change, and the rows that its model has: of the tokenizer before."""
    tokenizer = chat_reader(folder).tokenizer
    rows = len(tokenizer)
    if change is not None:
        change(tokenizer)
        tokenizer.save_pretrained(folder)
    return load_tokenizer(str(folder)), rows


@pytest.mark.parametrize("change", BEYOND.values(), ids=BEYOND)
def test_a_token_without_a_row_is_named_with_its_id(tmp_path: Path, change: Change) -> None:
    loaded, rows = _edited(tmp_path, change)
    with pytest.raises(DataError) as caught:
        require_embedded(loaded, width=rows, role="student")
    text = str(caught.value)
    assert f"has id {rows}" in text
    assert f": {rows}, so the highest id is {rows - 1}" in text
    assert "resize_token_embeddings" in text
    require_embedded(loaded, width=rows + 2, role="student")
    require_embedded(loaded, width=None, role="student")


def test_padding_alone_has_a_shorter_way_out(tmp_path: Path) -> None:
    loaded, rows = _edited(tmp_path, BEYOND["padding"])
    with pytest.raises(DataError, match=r"'\[PAD\]' has id") as caught:
        require_embedded(loaded, width=rows, role="student")
    assert "as pad_token in tokenizer_config.json" in str(caught.value)


def test_a_special_token_that_nothing_writes_may_lie_beyond(tmp_path: Path) -> None:
    """Gemma 3's tokenizer has one for images, one id beyond the rows of its smallest model."""
    loaded, rows = _edited(
        tmp_path, lambda tokenizer: tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    )
    assert len(loaded.tokenizer) == rows + 1
    require_embedded(loaded, width=rows, role="teacher")


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_a_run_is_refused_before_any_weight_is_loaded(tiny_world: dict[str, Any], tmp_path: Path, side: str) -> None:
    broken = tmp_path / "broken"
    tokenizer = load_tokenizer(tiny_world[side]["path"]).tokenizer
    tokenizer.add_special_tokens({"pad_token": "[MINE]"})
    tokenizer.save_pretrained(broken)
    for name in ("config.json", "model.safetensors"):
        (broken / name).write_bytes((Path(tiny_world[side]["path"]) / name).read_bytes())
    config = json.loads((broken / "config.json").read_text())
    values = {name: tiny_world[name] for name in ("student", "teacher", "data")} | {side: {"path": str(broken)}}
    with pytest.raises(DataError, match=f"The {side}'s tokenizer has tokens") as caught:
        load_inputs(RunRecipe(**values, method="logits", output=str(tmp_path / "run")))
    assert f"'[MINE]' has id {config['vocab_size']}" in str(caught.value)

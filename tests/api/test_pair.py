"""`dl.check_pair` gives what `distillab check` prints, from paths and from objects in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

import distillab as dl
from distillab.cli.main import app
from distillab.errors import ConfigError, DataError, TokenizerMismatch


@pytest.fixture
def paths(tiny_world: dict[str, Any]) -> tuple[str, str]:
    return tiny_world["teacher"]["path"], tiny_world["student"]["path"]


def printed(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["check", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout.rstrip()


def test_paths_give_the_text_of_the_command(paths: tuple[str, str], stranger: str) -> None:
    for teacher in (paths[0], stranger):
        pair = dl.check_pair(teacher, paths[1])
        assert str(pair) == repr(pair) == printed(teacher, paths[1])


def test_the_overlap_is_measured_on_rows_of_any_kind(tiny_world: dict[str, Any], stranger: str) -> None:
    file, student = tiny_world["data"]["train"]["path"], tiny_world["student"]["path"]
    rows = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]
    from_file, in_memory = (dl.check_pair(stranger, student, data=data) for data in (file, rows))
    assert str(from_file) == printed(stranger, student, "--data", file)
    assert in_memory.contract.data.source == "data, in memory"
    measured = [pair.contract.data.model_dump(exclude={"source"}) for pair in (from_file, in_memory)]
    assert measured[0] == measured[1]


def test_models_and_tokenizers_give_the_same_judgement(paths: tuple[str, str], stranger: str) -> None:
    student = AutoModelForCausalLM.from_pretrained(paths[1])
    for teacher in (paths[0], stranger):
        expected = dl.check_pair(teacher, paths[1])
        model, tokenizer = AutoModelForCausalLM.from_pretrained(teacher), AutoTokenizer.from_pretrained(teacher)
        for given in ((model, tokenizer), model, tokenizer):
            pair = dl.check_pair(given, student)
            assert pair.verdict == expected.verdict
            assert pair.contract.teacher.fingerprint == expected.contract.teacher.fingerprint
            assert pair.contract.teacher.logits_width == (None if given is tokenizer else 400)
            assert {name: m.admitted for name, m in pair.methods.items()} == {
                name: m.admitted for name, m in expected.methods.items()
            }
            assert pair.recommended == expected.recommended


def test_a_notebook_shows_the_text_in_colours(paths: tuple[str, str], stranger: str) -> None:
    pair = dl.check_pair(stranger, paths[1])
    assert pair.verdict == "different"
    html = pair._repr_html_()
    assert html.startswith("<pre")
    assert "verdict: different" in html
    assert "color: #800000" in html  # refused methods are red
    assert "<html" not in html


def test_a_tokenizer_that_is_not_its_file_is_refused(materials: Any) -> None:
    """AutoTokenizer builds TinyLlama's with other ids than its tokenizer.json; by its path it is loaded right."""
    folder = str(materials / "tokenizers" / "tinyllama-1.1b")
    with pytest.raises(TokenizerMismatch, match="tokenizer in memory"):
        dl.check_pair(folder, AutoTokenizer.from_pretrained(folder))
    assert dl.check_pair(folder, folder).verdict == "identical"


def test_what_cannot_be_judged_is_named(paths: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match="object of another kind") as wrong:
        dl.check_pair(paths[0], 3)  # type: ignore[arg-type]
    assert "builtins.int" in str(wrong.value)
    nameless = LlamaForCausalLM(
        LlamaConfig(vocab_size=400, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    )
    with pytest.raises(ConfigError, match="model without a tokenizer") as wrong:
        dl.check_pair(paths[0], nameless)
    assert "student=(model, tokenizer)" in str(wrong.value)
    with pytest.raises(DataError, match="object of another kind"):
        dl.check_pair(*paths, data=3)
    with pytest.raises(DataError, match="no rows"):
        dl.check_pair(*paths, data=[])

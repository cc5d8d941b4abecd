"""`distillab check --tokens` from the outside."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from distillab.cli.check import check_command
from distillab.errors import ConfigError


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(check_command)
    return app


def run(app: typer.Typer, *arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_spans_and_what_a_token_becomes(app: typer.Typer, materials: Path) -> None:
    tokenizers = materials / "tokenizers"
    result = run(app, tokenizers / "mistral-7b-v0.1", tokenizers / "tinyllama-1.1b", "--tokens", "[b] unraveled 3 執")
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.output.splitlines()]
    for line in (
        "<s> <s>",
        "'r' | 'avel' | 'ed' 'ra' | 've' | 'led'",
        "'3' '3'",
        "'執' '\\xe5' | '\\x9f' | '\\xb7'",
        "28770 '3' -> 29941 '3' exact",
        "1 <s> -> 1 <s> role",
    ):
        assert line in lines
    assert any("'執' -> 232 '\\xe5' pieces" in line for line in lines)
    assert any(line.startswith("of the teacher's vocabulary: exact 75.7%, pieces 24.3%") for line in lines)
    assert "verdict" not in result.output


def test_what_is_left_out_is_said(app: typer.Typer, materials: Path) -> None:
    tokenizers = materials / "tokenizers"
    result = run(app, tokenizers / "gpt2", tokenizers / "tok512", "--tokens", "a  b")
    assert result.exit_code == 0
    assert "left out, student: 1 tokens, special tokens that the other tokenizer lacks" in result.output
    assert "left out, teacher: 2 tokens, bytes that a normaliser changed" in result.output


def test_an_empty_text(app: typer.Typer, materials: Path) -> None:
    tokenizers = materials / "tokenizers"
    result = run(app, tokenizers / "gpt2", tokenizers / "tok512", "--tokens", "")
    assert result.exit_code == 0
    assert "that both share: 0" in result.output


def test_it_is_shown_by_itself(app: typer.Typer, materials: Path) -> None:
    tokenizer = materials / "tokenizers" / "gpt2"
    for other in (["--json"], ["--data", "rows.jsonl"]):
        result = run(app, tokenizer, tokenizer, "--tokens", "a", *other)
        assert isinstance(result.exception, ConfigError)

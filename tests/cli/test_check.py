"""`distillab check` from the outside: output, JSON, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from distillab.cli.check import check_command
from distillab.errors import ConfigError, DataError
from distillab.records import PairCheck


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(check_command)
    return app


def run(app: typer.Typer, *arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_tokens_that_the_student_writes_in_place_of_one(app: typer.Typer, materials: Path, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text('{"text": "In the garden, a garden."}\n' * 3, encoding="utf-8")
    pair = (materials / "tokenizers" / "gpt2", materials / "tokenizers" / "tok512")
    result = run(app, *pair, "--transport", " garden", "--data", data)
    assert result.exit_code == 0
    # 6 times counted, and 2 from its own encoding of the token
    assert "at its start: ' g' 100.0% (6)" in result.output
    assert "after ' gar': 'd' 100.0% (6)" in result.output
    assert isinstance(run(app, *pair, "--transport", " gardenish").exception, ConfigError)
    assert isinstance(run(app, *pair, "--transport", " garden", "--json").exception, ConfigError)
    assert "is missing" in str(run(app, *pair, "--transport", "").exception)
    assert "never occurred" not in result.output
    sample = run(app, *pair, "--transport", " Ukrainian")
    assert "the sample that ships with distillab" in sample.output
    assert "(0); it never occurred" in sample.output


def test_pair_that_cannot_share_tokens(app: typer.Typer, materials: Path, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text('{"question": "How many [b]foxes[/b] are there?", "answer": "Two."}\n' * 3, encoding="utf-8")
    tokenizers = materials / "tokenizers"
    result = run(app, tokenizers / "mistral-7b-v0.1", tokenizers / "tinyllama-1.1b", "--data", data)
    assert result.exit_code == 0
    for part in (
        "verdict: different",
        "270  ids that mean the same: 0.8%",
        "24,184  token strings in both, whatever their ids: 75.6%",
        "How many [b]foxes[/b] are there?",
        "On rows.jsonl: 3 rows",
        "loading: AutoTokenizer builds",
        "valid    seqkd                  access: text       learns",
        "teacher tokens that are in the student's vocabulary: ",
        "refused  logits                 access: logits     it compares token ids",
        "valid    span_hidden_states     access: internals  reads a text in both tokenisations",
        "Recommended: vocabulary_projection",
        "path C",
    ):
        assert part in result.output
    assert "\x1b[" not in result.output


def test_example_without_data(app: typer.Typer, materials: Path) -> None:
    tokenizers = materials / "tokenizers"
    result = run(app, tokenizers / "mistral-7b-v0.1", tokenizers / "tinyllama-1.1b")
    assert "teacher  1, 415, 2936, 9060," in result.output
    assert "student  1, 450, 4996, 17354," in result.output
    assert "On the sample that ships with distillab: 29 rows" in result.output.splitlines()
    assert "--data FILE measures the same on your own text" in result.output


def test_pair_that_can(app: typer.Typer, materials: Path) -> None:
    models = materials / "models"
    result = run(app, models / "bitllama-3M-tok512", models / "stories260K-tok512")
    assert result.exit_code == 0, result.output
    assert "verdict: identical" in result.output
    assert "refused" not in result.output
    assert "Ways out" not in result.output
    assert "Recommended: logits\n  - 512 ids mean the same" in result.output


def test_json_and_nothing_else(app: typer.Typer, materials: Path) -> None:
    tokenizers = materials / "tokenizers"
    result = run(app, tokenizers / "tok512", tokenizers / "tok105", "--json")
    assert result.exit_code == 0
    judged = PairCheck.model_validate_json(result.stdout)
    assert judged.contract.verdict == "different"
    assert json.loads(result.stdout)["schema_version"] == 3


@pytest.mark.parametrize(("method", "code"), [("logits", 1), ("seqkd", 0)])
def test_only_what_is_required_decides_the_exit_code(app: typer.Typer, materials: Path, method: str, code: int) -> None:
    tokenizers = materials / "tokenizers"
    result = run(app, tokenizers / "tok512", tokenizers / "tok105", "--require", method)
    assert result.exit_code == code
    assert "Recommended: " in result.output


def test_a_required_method_that_does_not_exist(app: typer.Typer, materials: Path) -> None:
    tok512 = materials / "tokenizers" / "tok512"
    result = run(app, tok512, tok512, "--require", "logit")
    assert isinstance(result.exception, ConfigError)
    assert 'did you mean "logits"' in str(result.exception)


def test_weights_are_not_needed(app: typer.Typer, materials: Path, tmp_path: Path) -> None:
    import shutil

    for file in (materials / "models" / "stories260K-tok512").iterdir():
        if file.suffix == ".json":
            shutil.copy(file, tmp_path)
    result = run(app, materials / "models" / "bitllama-3M-tok512", tmp_path)
    assert result.exit_code == 0
    assert "512 tokens, logits width 512" in result.output


def test_bad_input_keeps_its_message(app: typer.Typer, materials: Path, tmp_path: Path) -> None:
    tok512 = materials / "tokenizers" / "tok512"
    assert isinstance(run(app, tok512, tmp_path / "nope").exception, ConfigError)
    assert isinstance(run(app, tok512, tmp_path).exception, DataError)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    assert isinstance(run(app, tok512, tok512, "--data", empty).exception, DataError)
    assert isinstance(run(app, tok512, tok512, "--data", tmp_path / "none.jsonl").exception, DataError)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, distillab.cli.check; "
        "print([m for m in ('torch', 'transformers', 'datasets', 'numpy', 'tokenizers') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"

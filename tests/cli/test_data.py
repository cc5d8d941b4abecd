"""`distillab data` on real files."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from distillab.cli.data import data_command
from distillab.errors import ConfigError, DataError


@pytest.fixture
def run():
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(data_command)

    def call(*arguments):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=True)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.stdout

    return call


def test_importing_the_command_loads_nothing_heavy():
    code = "import sys, distillab.cli.data; print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_real_file_with_a_real_tokenizer(run, materials):
    shown = run(
        materials / "text" / "gsm8k" / "train.jsonl",
        "data.train.limit=50",
        "--tokenizer",
        materials / "tokenizers" / "tinyllama-1.1b",
        "--show",
        "1",
    )
    assert "<s>· Natal·ia· sold" in shown
    assert "?·↵·⟦N·atal·ia· sold· ·4·8·/·2" in shown
    assert "####· ·7·2·</s>⟧" in shown
    assert shown.count("⟦") == 1
    assert "pair (question/answer)" in shown
    assert "template plain" in shown
    assert "max_tokens 512" in shown
    assert "sampled:" not in shown
    assert [line.split() for line in shown.splitlines() if line.startswith("  rows")] == [["rows", "50"]]
    assert "supervised tokens" in shown


def test_dropped_and_truncated_rows_are_counted(run, materials):
    shown = run(
        materials / "text" / "dolly" / "dev.jsonl",
        "data.template=alpaca",
        "data.max_tokens=64",
        "data.train.limit=20",
        "--tokenizer",
        materials / "tokenizers" / "mistral-7b-v0.1",
        "--show=0",
    )
    assert "⟦" not in shown
    counts = {line.split("  ")[1]: line for line in shown.splitlines() if line.startswith("  ")}
    assert counts["truncated"].split()[1] != "0"
    assert "no room for an answer 0)" not in counts["dropped"]


def recipe(tmp_path, materials, extra):
    rows = [{"prompt": f"say {n}", "answer": str(n)} for n in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"student: {{path: {materials}/tokenizers/tok512}}\n"
        f"data:\n  train: {{path: {tmp_path}/rows.jsonl}}\n  held_out: {{fraction: 0.2}}\n{extra}"
    )
    return path


@pytest.mark.parametrize("extra", ["method: sft\n", "teacher: {path: t}\nseeds: [1]\narms: [sft]\n"])
def test_recipes_of_runs_and_studies(run, tmp_path, materials, extra):
    shown = run(recipe(tmp_path, materials, extra), "--show", "2")
    assert shown.count("⟦") == 2
    rows = [int(line.split()[1]) for line in shown.splitlines() if line.startswith("  rows")]
    assert rows == [16, 4]
    assert "also in the training part: 0" in shown


def test_a_large_file_is_sampled_unless_all_is_asked_for(run, tmp_path, materials):
    rows = [json.dumps({"prompt": f"say {n}", "answer": str(n)}) for n in range(1500)]
    path = tmp_path / "rows.jsonl"
    # what stands behind the sample is not read
    path.write_text("\n".join([*rows, "{broken"]) + "\n")
    arguments = (path, "--tokenizer", materials / "tokenizers" / "tok512", "--show", "1")
    shown = run(*arguments)
    assert "sampled: only the first 1,000 rows" in shown
    assert "  rows                   1,000" in shown
    with pytest.raises(DataError, match="line 1501: not JSON"):
        run(*arguments, "--all")
    shown = run(*arguments, "--all", "data.on_bad_row=skip")
    assert "sampled:" not in shown
    assert "  rows                   1,500" in shown
    assert f"skipped: 1 rows that cannot be read (data.on_bad_row: skip)\n  {path}, line 1501: not JSON" in shown


def test_answers_to_one_prompt_and_lost_characters_are_shown(run, tmp_path, materials):
    rows = [json.dumps({"prompt": f"say {'abcd'[n % 4]}", "answer": "日" + "x" * (n + 1)}) for n in range(20)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows) + "\n")
    shown = run(tmp_path / "rows.jsonl", "--tokenizer", materials / "tokenizers" / "tok105", "--show", "1")
    assert "1 characters have no token" in shown
    counts = {line[2:20].strip(): line.split() for line in shown.splitlines() if line.startswith("  ")}
    assert counts["prompts"][1] == "4"
    assert counts["without a token"][3:5] == ["20", "(20"], counts


def test_wrong_use_is_explained(run, tmp_path, materials):
    with pytest.raises(ConfigError, match="--tokenizer"):
        run("rows.jsonl")
    with pytest.raises(ConfigError, match=r'did you mean "template"'):
        run("rows.jsonl", "data.templat=plain", "--tokenizer", "x")
    with pytest.raises(DataError, match="no such file"):
        run(tmp_path / "none.jsonl", "--tokenizer", materials / "tokenizers" / "tok512")
    with pytest.raises(ConfigError, match="cannot be read"):
        run(tmp_path / "none.yaml")


def test_colours_mark_what_is_learned(materials):
    from transformers import PreTrainedTokenizerFast

    from distillab.data.encoding import Encoder
    from distillab.data.examples import pair_example
    from distillab.data.templates import resolve_template
    from distillab.data.view import coloured, marked
    from distillab.pairing.token_bytes import token_meanings

    tokenizer = PreTrainedTokenizerFast.from_pretrained(materials / "tokenizers" / "tok512")
    example = pair_example("k", "f", instruction="Hi \x1b[31m", context="", answer="日 yes")
    row = Encoder(tokenizer, resolve_template("plain", tokenizer, "pair"), 64).encode(example)
    meanings = token_meanings(tokenizer)
    text = coloured(row, meanings)
    green = "".join(text.plain[span.start : span.end] for span in text.spans if "green" in str(span.style))
    assert green == "<0xE6><0x97><0xA5> yes</s>"
    assert marked(row, meanings).endswith("⟦<0xE6>·<0x97>·<0xA5>· y·es·</s>⟧")
    assert "\x1b" not in text.plain

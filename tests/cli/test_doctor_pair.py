"""`distillab doctor pair`: what is printed, what is written, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distillab.records import Investigation, read_record
from tests.cli.conftest import Run


@pytest.fixture(scope="module")
def rows(materials: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Beginnings of stories: enough to judge, and soon read."""
    path = tmp_path_factory.mktemp("data") / "stories.jsonl"
    lines = (materials / "text/tinystories/stories_dev.jsonl").read_text(encoding="utf-8").splitlines()[:24]
    texts = [" ".join(json.loads(line)["text"].split(" ")[:50]) for line in lines]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def test_a_good_pair(run: Run, materials, rows, tmp_path):
    models = materials / "models"
    code, out, err = run(
        "doctor", "pair", str(models / "stories260K-tok512"), str(models / "llama2xs-tok512"),
        "--data", str(rows), "--rows", "20", "--json", str(tmp_path / "found.json"),
    )  # fmt: skip
    assert code == 0, err
    assert "nothing was found" in out and "p = 0.002" in out and "teacher's knowledge" in out
    record = read_record(Investigation, tmp_path / "found.json")
    assert record.pairing is not None and record.pairing.contract.verdict == "identical"
    assert record.pairing.contract.data is not None and record.pairing.contract.data.rows == 40
    assert {one.check: one.skipped is None for one in record.checks}["alignment"]


def test_tokenizers_alone(run: Run, materials):
    tokenizers = materials / "tokenizers"
    words = ("doctor", "pair", str(tokenizers / "tok512"), str(tokenizers / "tok105"))
    code, out, _ = run(*words)
    assert code == 1
    assert "error: pair-ids-unrelated" in out and "distillab doctor explain pair-ids-unrelated" in out
    assert "not checked: no weights of the teacher" in out
    code, out, _ = run(*words, "--across-tokenizers")
    assert code == 0 and "note: pair-ids-unrelated" in out


def test_what_cannot_be_read(run: Run, materials, rows, tmp_path):
    tokenizer = str(materials / "tokenizers/tok512")
    code, _, err = run("doctor", "pair", str(tmp_path / "nowhere"), tokenizer)
    assert code == 2 and err.startswith("ConfigError")
    code, _, err = run("doctor", "pair", tokenizer, tokenizer, "--data", str(tmp_path / "none.jsonl"))
    assert code == 1 and err.startswith("DataError")
    assert run("doctor", "pair", tokenizer, tokenizer, "--rows", "0")[0] == 2
    code, _, err = run("doctor", "pair", tokenizer, tokenizer, "--data", str(rows), "--template", "nonsense")
    assert code == 2 and err.startswith("ConfigError")

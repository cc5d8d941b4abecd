"""What `distillab cache` refuses, and what it says then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.cli.conftest import Run

Recipe = Callable[..., str]


class Refusal(NamedTuple):
    changes: dict[str, Any]
    words: list[str]
    code: int
    expected: list[str]


REFUSALS = {
    "worker-out-of-range": Refusal({}, ["--worker", "2/2"], 2, ["counts from 0", "got: 2/2"]),
    "worker-not-a-share": Refusal({}, ["--worker", "second"], 2, ["got: second"]),
    "nothing-to-store": Refusal({"method": "sft"}, [], 2, ["reads nothing of a teacher", "cache: {kinds:"]),
    "no-weights": Refusal(
        {"teacher": {"cache": "nowhere"}}, [], 2, ["names no teacher with weights", "teacher: {path: …}"]
    ),
    "no-such-layer": Refusal({}, ["cache.kinds=[{kind: hidden_states, layers: [7]}]"], 2, ["7", "0 to 1"]),
    "no-such-kind": Refusal({}, ["cache.kinds=[{kind: topk}]"], 2, ["cache.kinds"]),
    "kind-twice": Refusal({}, ["cache.kinds=[{kind: top_k, k: 4}, {kind: top_k, k: 8}]"], 2, ["duplicate kind"]),
    "attention-maps": Refusal(
        {"terms": [{"kind": "cross_entropy"}, {"kind": "attention_maps"}]}, [], 2, ["Attention maps cannot be stored"]
    ),
    "signals-without-answers": Refusal({"method": "seqkd"}, ["cache.kinds=[{kind: full}]"], 2, ["add {kind: text}"]),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_built_is_said(run: Run, recipe: Recipe, tmp_path: Path, name: str) -> None:
    changes, words, code, expected = REFUSALS[name]
    got, out, err = run("cache", "build", recipe(**{"method": "logits"} | changes), *words)
    assert got == code, err
    assert all(text in err for text in expected), err
    assert "Traceback" not in out + err
    assert not (tmp_path / "run").exists()


def test_signals_of_a_teacher_with_other_tokens_are_refused(run: Run, recipe: Recipe, stranger: str) -> None:
    path = recipe(method="sft", teacher={"path": stranger})
    code, _, err = run("cache", "build", path, "cache.kinds=[{kind: top_k, k: 4}]")
    assert code == 1 and "TokenizerMismatch" in err and "kind: text" in err and "Traceback" not in err


@pytest.mark.parametrize("command", ["info", "verify", "export"])
def test_a_folder_that_is_no_cache(run: Run, tmp_path: Path, command: str) -> None:
    code, _, err = run("cache", command, str(tmp_path), *(["--to", "parquet"] if command == "export" else []))
    assert code == 1 and "This is no teacher cache" in err and "Traceback" not in err

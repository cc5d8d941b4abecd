"""Bad input through the command line: what is said, the exit code, and that nothing is left behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run

GOOD = {"prompt": "What is 1 plus 1?", "answer": "It is 2."}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, ["There is no such file", "rows.jsonl"]),
        (b"", ["rows.jsonl"]),
        (json.dumps({"prompt": "a"}).encode() + b"\n", ["prompt"]),
        (
            b"\n".join([json.dumps(GOOD).encode(), b'{"prompt": "broken', json.dumps(GOOD).encode()]),
            ["rows.jsonl", "line 2"],
        ),
        (
            json.dumps(GOOD).encode() + b"\n" + '{"prompt": "Käse", "answer": "x"}'.encode("latin-1"),
            ["rows.jsonl", "line 2"],
        ),
        (
            b"".join(json.dumps({**GOOD, "prompt": str(i), "answer": " "}).encode() + b"\n" for i in range(5)),
            ["No supervised token is left", "5 dropped for an empty answer"],
        ),
        (
            b"".join(json.dumps({**GOOD, "prompt": f"{i} " * 200}).encode() + b"\n" for i in range(5)),
            ["No supervised token is left", "prompt alone fills max_tokens"],
        ),
    ],
    ids=["missing", "empty", "no-answer-column", "broken-line", "not-utf8", "all-answers-empty", "no-room"],
)
def test_bad_rows(
    run: Run,
    recipe: Callable[..., str],
    tiny_world: dict[str, Any],
    tmp_path: Path,
    content: bytes | None,
    expected: list[str],
) -> None:
    rows = tmp_path / "rows.jsonl"
    if content is not None:
        rows.write_bytes(content)
    code, out, err = run("train", recipe(data={**tiny_world["data"], "train": {"path": str(rows)}}))
    assert code == 1
    assert all(text in err for text in expected), err
    assert "Traceback" not in out + err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "code", "expected"),
    [
        ({"method": "logitz"}, 2, 'did you mean "logits"?'),
        ({"lerning": 1}, 2, "lerning: no such key"),
        ({"training": {"stepz": 1}}, 2, 'did you mean "steps"'),
        ({"student": {"path": "./nowhere"}}, 2, "folder does not exist"),
        ({"method": "logits", "teacher": {"path": "./nowhere"}}, 1, "teacher's folder does not exist"),
    ],
)
def test_bad_recipes(
    run: Run, recipe: Callable[..., str], tmp_path: Path, changes: dict[str, Any], code: int, expected: str
) -> None:
    got, _, err = run("train", recipe(**changes))
    assert got == code, err
    assert expected in err and "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_a_mismatched_pair_is_refused_with_the_ways_out(
    run: Run, recipe: Callable[..., str], stranger: str, tmp_path: Path
) -> None:
    code, _, err = run("train", recipe(method="logits", teacher={"path": stranger}))
    assert code == 1
    for text in ("path A", "path B", "path C", "seqkd", "in both:", "because both have id"):
        assert text in err, err
    assert not (tmp_path / "run").exists()


def test_a_teacher_without_weights_is_named_before_anything_is_done(
    run: Run, recipe: Callable[..., str], tiny_world: dict[str, Any], tmp_path: Path
) -> None:
    empty = tmp_path / "weightless"
    shutil.copytree(tiny_world["teacher"]["path"], empty)
    (empty / "model.safetensors").unlink()
    code, _, err = run("train", recipe(method="logits", teacher={"path": str(empty)}))
    assert code == 1 and "has no weights" in err and "it holds: config.json" in err


def test_an_unknown_command_is_wrong_usage(run: Run) -> None:
    assert run("trian")[0] == 2


def test_a_good_run_prints_its_figures_and_where_they_are(run: Run, recipe: Callable[..., str], tmp_path: Path) -> None:
    path = recipe(method="logits")
    code, out, _ = run("train", path)
    assert code == 0
    assert ": held-out " in out and "nats/token" in out and "log V" in out and "run.json" in out
    again, out_again, _ = run("train", path)
    assert (again, out_again) == (0, out)  # finished: nothing is done again, the output is the same
    code, _, err = run("train", path, "training.steps=5")
    assert code == 2 and "training.steps: there 4, now 5" in err
    assert (tmp_path / "run" / "run.json").exists()

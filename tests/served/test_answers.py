"""Runs on the answers of a server: llama.cpp's own by tokens and by chat, and one that is given a key."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from distillab.cache.reader import CacheReader
from distillab.cache.text import Text
from tests.cli.conftest import call, dumped
from tests.served.faulty_server import Fault, FaultyServer, Status, serving

NAMES = ("Tim", "Lily", "Ben", "Mom", "the dog", "a cat", "the big bird", "his friend")
KEY = "sk-planted/9876543210"
Recipe = Callable[..., str]
PRICES = {"prompt": 2.0, "completion": 8.0}


@pytest.fixture
def recipe(materials: Path, tmp_path: Path) -> Recipe:
    """Write a recipe of a run on answers; returns its path."""
    model = str(materials / "models" / "stories260K-tok512")
    rows = [{"prompt": f"Once upon a time {name} said", "answer": " hello."} for name in NAMES]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def write(name: str, **changes: Any) -> str:
        values = {
            "student": {"path": model, "init": "random"},
            "teacher": {"path": model},
            "data": {"train": {"path": str(tmp_path / "rows.jsonl")}, "max_tokens": 64},
            "method": "seqkd",
            "teacher_answers": {"max_new_tokens": 16, "keep_cut_off": True, "batch_size": 2},
            "training": {"steps": 2, "batch_size": 2, "device": "cpu"},
            "evaluation": {"rows": 1, "generate_rows": 0, "max_new_tokens": 4},
            "output": str(tmp_path / name),
            **changes,
        }
        return dumped(values, tmp_path / f"{name}.yaml")

    return write


def record(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "run.json").read_text())
    return found


def texts(run: Path) -> list[str]:
    reader = CacheReader(run / "answers")
    sections = [row.sections["text"] for row in reader.read(range(reader.identity.rows), ["text"])]
    return [section.answer for section in sections if isinstance(section, Text)]


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_training_on_tokens_of_a_server_is_training_on_those_of_the_weights(
    recipe: Recipe, stories_server: str, materials: Path, tmp_path: Path
) -> None:
    model = str(materials / "models" / "stories260K-tok512")
    served = recipe("served", teacher={"path": model, "server": {"url": stories_server, "prices": PRICES}})
    code, out, err = call("train", served)
    assert code == 0, err
    assert call("train", recipe("local"))[0] == 0
    # the server's attention is in float16, which can decide a near tie in another way; measured: 1 answer of 32
    pairs = list(zip(texts(tmp_path / "served"), texts(tmp_path / "local"), strict=True))
    assert sum(one == other for one, other in pairs) >= len(pairs) - 2
    assert losses(tmp_path / "served") == pytest.approx(losses(tmp_path / "local"), rel=5e-3)
    counts = record(tmp_path / "served")["answers"]
    cost = counts.pop("served")
    assert cost["completion_tokens"] == counts["generated_tokens"] == cost["requests"] * 16
    assert cost["prompt_tokens"] == counts["teacher_tokens"] - counts["generated_tokens"] and cost["seconds"] > 0
    assert cost["money"] == pytest.approx((cost["prompt_tokens"] * 2 + cost["completion_tokens"] * 8) / 1e6)
    assert "by teacher.server.prices" in err and "of the teacher behind a server" in out
    (probe,) = record(tmp_path / "served")["servers"]
    assert probe["dialect"] == "llama_cpp"


def test_a_chat_server_needs_no_folder(
    recipe: Recipe, tiny_world: dict[str, Any], stories_server: str, tmp_path: Path
) -> None:
    recipe = partial(recipe, student=tiny_world["student"])
    server = {"url": stories_server + "/v1", "model": "small"}
    drawn = {"max_new_tokens": 16, "keep_cut_off": True, "batch_size": 4, "sample": True, "answers_per_prompt": 2}
    built = recipe("run", teacher={"server": server}, teacher_answers=drawn)
    code, out, err = call("cache", "build", built)
    assert code == 0, err
    assert "small-served" in out
    cache = tmp_path / "run" / "cache"
    asked = (cache / "text" / "served" / "served.answers").read_bytes()
    code, _, err = call("train", recipe("cached", teacher={"cache": str(cache)}, teacher_answers=drawn))
    assert code == 0, err
    assert call("train", built)[0] == 0
    assert losses(tmp_path / "cached") and len(losses(tmp_path / "run")) == 2
    found = record(tmp_path / "run")
    assert found["contract"] is None and found["servers"][0]["dialect"] == "openai_chat"
    assert found["teacher"]["name"] == "small-served" and found["access"] == "text"
    counts = found["answers"]
    assert counts["generated"] == 2 * counts["prompts"] == counts["served"]["requests"]
    assert counts["served"]["money"] is None and counts["served"]["prompt_tokens"] > 0
    of_cache = record(tmp_path / "cached")["answers"]
    assert of_cache["served"]["requests"] == counts["generated"]
    assert (cache / "text" / "served" / "served.answers").read_bytes() == asked
    code, _, err = call("train", recipe("signals", teacher={"server": server}, method="logits"))
    assert code != 0 and "a chat server gives text alone" in err


@pytest.mark.parametrize(
    "fault",
    [
        None,
        lambda answer: answer.update(system_fingerprint=f"you are {KEY}", model=KEY),
        Status(500, json.dumps({"error": f"bad key {KEY}"}).encode()),
    ],
    ids=["right", "in the answer", "500"],
)
def test_the_key_is_in_nothing_that_a_run_leaves(
    fault: Fault | Status | None,
    recipe: Recipe,
    tiny_world: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PLANTED_API_KEY", KEY)
    with serving(FaultyServer(paths=("/v1/chat/completions",), always=fault)) as app:
        server = {"url": app.url, "model": "m", "api_key_env": "PLANTED_API_KEY", "tries": 1}
        code, out, err = call("train", recipe("run", teacher={"server": server}, student=tiny_world["student"]))
        assert {headers["authorization"] for headers in app.headers} == {f"Bearer {KEY}"}
    assert (code == 0) == (fault is None or callable(fault)), err
    assert (tmp_path / "run" / "run.json").exists() == (code == 0)
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(left) > 3 and KEY not in out + err
    forms = [KEY, json.dumps(KEY).strip('"'), KEY.replace("/", "\\/")]
    assert not [path for path in left for form in forms if form.encode() in path.read_bytes()]

"""A teacher behind a server in recipes: its cache, and training on it, equal those of the weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from distillab.config.teacher import TeacherConfig
from distillab.files import read_json_lines
from distillab.teachers.served.journal import AnswerJournal
from tests.cli.conftest import call, dumped

TEXTS = (
    ("Once upon a time there was", " a little dog. The dog said: hello! He was happy."),
    ("Lily and Ben went", " to the park.\n\nThey saw a big 🐶; then they ran home to mom."),
    ("One day, a boy named Tim", " found 1,234 shiny stones. He showed them to his mom."),
)
Recipe = Callable[..., str]


@pytest.fixture
def recipe(materials: Path, tmp_path: Path) -> Recipe:
    """Write a recipe of a run; returns its path."""
    return recipes_of(materials / "models" / "stories260K-tok512", tmp_path)


def recipes_of(model: Path, folder: Path) -> Recipe:
    """Write recipes into a folder whose teacher is a model and whose student begins with random weights of its kind."""
    rows = [{"prompt": prompt, "answer": answer + f" {number}"} for number in range(4) for prompt, answer in TEXTS]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def write(name: str, **changes: Any) -> str:
        values = {
            "student": {"path": str(model), "init": "random"},
            "teacher": {"path": str(model)},
            "data": {"train": {"path": str(folder / "rows.jsonl")}, "max_tokens": 64},
            "answers": "dataset",
            "terms": [{"kind": "top_k_divergence", "k": 16}],
            "training": {"steps": 3, "batch_size": 4, "device": "cpu"},
            "evaluation": {"rows": 4, "generate_rows": 0, "max_new_tokens": 4},
            "output": str(folder / name),
            **changes,
        }
        return dumped(values, folder / f"{name}.yaml")

    return write


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def require_close(run: Path, wanted: list[float]) -> None:
    """The largest measured difference is 8.1e-5 of the loss, on the student's answers 1.1e-4."""
    gaps = [abs(one / other - 1) for one, other in zip(losses(run), wanted, strict=True)]
    print(f"{run.name}, three steps: the loss differs by {max(gaps):.1e} of it")
    assert len(wanted) == 3 and max(gaps) < 3e-4


def test_training_on_a_server_and_on_its_cache_is_training_on_the_weights(
    recipe: Recipe, stories_server: str, materials: Path, tmp_path: Path
) -> None:
    model = str(materials / "models" / "stories260K-tok512")
    served = recipe("served", teacher={"path": model, "server": {"url": stories_server}})
    code, out, err = call("cache", "build", served)
    assert code == 0, err
    assert "stories260K-tok512-served" in out and "top_k" in out
    answers = (tmp_path / "served" / "served" / "served.answers").stat().st_size
    probed = (tmp_path / "served" / "served" / "probe.json").stat()
    assert call("train", served)[0] == 0
    # the run reads what the build was answered, and what it found
    assert (tmp_path / "served" / "served" / "probe.json").stat().st_mtime_ns == probed.st_mtime_ns
    assert (tmp_path / "served" / "served" / "served.answers").stat().st_size == answers
    cached = recipe("cached", teacher={"cache": str(tmp_path / "served" / "cache")})
    assert call("train", cached)[0] == 0
    # "auto" would read the weights in bfloat16, as their configuration says
    assert call("train", recipe("local", teacher={"path": model, "dtype": "float32"}))[0] == 0
    wanted = losses(tmp_path / "local")
    require_close(tmp_path / "served", wanted)
    require_close(tmp_path / "cached", wanted)
    text = (tmp_path / "served" / "run.json").read_text()
    assert "stories260K-tok512-served" in text and "teacher is behind a server" in text
    (found,) = json.loads(text)["servers"]
    assert found["dialect"] == "llama_cpp" and all(check["passed"] is not False for check in found["checks"])
    engine = json.loads(next((tmp_path / "served" / "cache").rglob("identity.json")).read_text())["engine"]
    assert engine["dialect"] == "llama_cpp" and "positions are aligned; " in engine["probed"]


def test_the_most_likely_tokens_of_a_server_are_carried_over_as_those_of_the_weights(
    recipe: Recipe, stories_server: str, materials: Path, tmp_path: Path
) -> None:
    models = materials / "models"
    teacher = str(models / "stories260K-tok512")
    across = {
        "student": {"path": str(models / "babyllama-tok105"), "init": "random"},
        "data": {"train": {"path": str(tmp_path / "rows.jsonl")}, "max_tokens": 128},
        "terms": [{"kind": "top_k_transport", "k": 16}],
    }
    served = recipe("served", teacher={"path": teacher, "server": {"url": stories_server}}, **across)
    assert call("train", served)[0] == 0
    assert call("train", recipe("local", teacher={"path": teacher, "dtype": "float32"}, **across))[0] == 0
    require_close(tmp_path / "served", losses(tmp_path / "local"))


OWN = {"method": "on_policy", "answers": {"from": "student", "fraction": 0.5, "max_new_tokens": 8}}


def test_what_a_student_writes_is_scored_as_by_the_weights(
    recipe: Recipe, stories_server: str, materials: Path, tmp_path: Path
) -> None:
    model = str(materials / "models" / "stories260K-tok512")
    prices = {"prompt": 1, "completion": 1}
    served = recipe("served", teacher={"path": model, "server": {"url": stories_server, "prices": prices}}, **OWN)
    assert call("train", served)[0] == 0
    assert call("train", recipe("local", teacher={"path": model, "dtype": "float32"}, **OWN))[0] == 0
    require_close(tmp_path / "served", losses(tmp_path / "local"))
    record = json.loads((tmp_path / "served" / "run.json").read_text())
    # one request a row at least: all are counted, what the student wrote is not kept
    assert record["cost"]["served"]["requests"] >= 3 * 4 and record["cost"]["served"]["money"] > 0
    kept = AnswerJournal(tmp_path / "served" / "served")
    assert 1 <= len(kept) - 1 <= record["cost"]["served"]["requests"] - 3 * 2  # one key is that of all others
    figures = [line["rollout"] for line in read_json_lines(tmp_path / "served" / "metrics.jsonl") if "rollout" in line]
    assert all("top16_overlap" in line and "teacher_entropy" not in line for line in figures)


def test_what_a_server_does_not_give_is_refused(recipe: Recipe, tiny_world: dict[str, Any], tiny_server: str) -> None:
    recipe = partial(recipe, student=tiny_world["student"])
    teacher = {**tiny_world["teacher"], "server": {"url": tiny_server, "dialect": "llama_cpp"}}
    whole = recipe("whole", teacher=teacher, terms=[{"kind": "token_divergence"}])
    code, _, err = call("train", whole)
    assert code != 0 and "The server does not give the signal" in err and "whole distribution" in err
    wide = recipe("wide", teacher=teacher, terms=[{"kind": "top_k_divergence", "k": 17}])
    code, _, err = call("train", wide)
    assert code != 0 and "teacher.server.k is 16" in err
    chat = {"server": {"url": tiny_server, "dialect": "openai_chat", "model": "small"}}
    code, _, err = call("train", recipe("text", teacher=chat))
    assert code != 0 and "a chat server gives text alone" in err


SERVER = {"url": "http://127.0.0.1:9", "dialect": "llama_cpp"}


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"server": SERVER}, "needs path"),
        ({"path": "m", "server": SERVER, "cache": "c"}, "cache: no effect"),
        ({"path": "m", "server": SERVER, "dtype": "float32", "device": "cpu"}, "dtype and device: no effect"),
        ({"server": SERVER | {"dialect": "openai_chat"}}, "needs server.model"),
        ({"path": "m", "server": SERVER | {"max_cost": 1}}, "needs prices"),
        ({"path": "m", "server": SERVER | {"fields": {"user": "me"}}}, "fields have no effect"),
        (
            {"path": "m", "server": SERVER | {"dialect": "auto", "fields": {"model": "x", "seed": 1}}},
            "cannot be set",
        ),
        ({"path": "m", "server": SERVER | {"dialect": "auto", "fields": {"user": "${MY_API_KEY}"}}}, "secret"),
        ({"path": "m", "server": SERVER | {"url": "127.0.0.1:9"}}, "no http"),
        ({"path": "m", "server": SERVER | {"url": "http://me:word@host"}}, "api_key_env"),
        ({"path": "m", "server": SERVER | {"url": "http://host/?key=1"}}, "no ?"),
        ({"path": "m", "server": SERVER | {"api_key_env": "MINE"}}, "would not be redacted"),
        ({"path": "m", "server": SERVER | {"url": "http://host/${MY_API_KEY}"}}, "secret by its name"),
    ],
)
def test_settings_without_effect_or_with_a_secret_are_refused(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason.replace("?", r"\?")):
        TeacherConfig(**values)

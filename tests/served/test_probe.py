"""What a probe finds of a real server, and of servers that do not do what they seem to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distillab.config.served import ServerConfig
from distillab.records import ServerCheck
from distillab.teachers.served.client import Client
from distillab.teachers.served.dialects.vllm import Vllm
from distillab.teachers.served.probe import probe
from tests.cli.conftest import call
from tests.served.faulty_server import Fault, FaultyServer, W, serving, table

IDS = [1, 7, 3, 30, 22, 9, 4, 17]


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with serving(FaultyServer()) as app:
        yield app


def probed(server: FaultyServer, *, k: int = 5, seed: int = 0) -> dict[str, ServerCheck]:
    client = Client(ServerConfig(url=server.url, dialect="vllm", model="table", k=k, tries=1), None, tokenizer="t")
    found = probe(client, Vllm("table"), IDS, width=W, local=lambda ids: table(seed)[np.array(ids)])
    client.close()
    return {check.name: check for check in found}


def refused(server: FaultyServer, **settings: Any) -> list[str]:
    return [name for name, check in probed(server, **settings).items() if check.passed is False]


def test_a_real_server_passes(stories_server: str, materials: Path) -> None:
    model = str(materials / "models" / "stories260K-tok512")
    code, out, err = call("teacher", "probe", stories_server, "--path", model, "--k", "8", "--weights")
    assert code == 0, out + err
    lines = out.splitlines()
    assert lines[0] == f"{stories_server}: llama_cpp" and "over 32 rows" in out
    assert sum(line.startswith("  ok ") for line in lines) == 9 and "NO" not in out
    assert lines[-1] == f"teacher: {{path: {model}, server: {{url: {stories_server}, dialect: llama_cpp, k: 8}}}}"


def test_a_table_passes_and_is_not_another_table(server: FaultyServer) -> None:
    assert refused(server) == refused(server, k=1) == refused(server, k=W) == []
    assert refused(server, seed=1) == ["the same model as the local weights"]


def _only_when(field: str, value: object, change: Fault) -> Fault:
    def fault(answer: dict[str, Any]) -> object:
        return change(answer) if answer["request"].get(field) == value else None

    return fault


def _entries(answer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for position in answer["choices"][0]["prompt_logprobs"][1:]:
        yield from position.values()


def _lowered(answer: dict[str, Any]) -> None:
    """Not normalised: no single position shows it."""
    for entry in _entries(answer):
        entry["logprob"] -= 0.5


def _invented(answer: dict[str, Any]) -> None:
    """The value of a token outside of the most likely is made up."""
    for entry in _entries(answer):
        if entry["rank"] > answer["request"]["prompt_logprobs"]:
            entry["logprob"] -= 1


def _halved(answer: dict[str, Any]) -> None:
    for entry in _entries(answer):
        entry["logprob"] = entry["logprob"] / 2 - 1.5


def _shifted(answer: dict[str, Any]) -> None:
    """With all ids at every position nothing is missing, but each is the next one's."""
    positions = answer["choices"][0]["prompt_logprobs"]
    positions[1:] = [*positions[2:], positions[1]]


class _Drifting:
    """Another backend at every second request."""

    asked = 0

    def __call__(self, answer: dict[str, Any]) -> None:
        self.asked += 1
        if self.asked % 2 == 0:
            for entry in _entries(answer):
                entry["logprob"] -= 0.3


class _Rounded:
    """bfloat16: at every second request the largest logit of a position is rounded to another step."""

    asked = 0

    def __call__(self, answer: dict[str, Any]) -> None:
        self.asked += 1
        for entry in _entries(answer):
            if entry["rank"] == 1 and self.asked % 2 == 0 and answer["request"]["prompt_logprobs"] < W:
                entry["logprob"] -= 0.125


def test_what_a_server_does_is_found(server: FaultyServer) -> None:
    server.always = _only_when("temperature", 2.0, _halved)
    assert refused(server) == ["raw at temperature 2"]
    server.always = _lowered
    assert refused(server) == ["normalised", "the same model as the local weights"]
    server.always = _invented
    assert refused(server) == ["a token outside of the k has its value"]
    server.always = _only_when("prompt_logprobs", 10, _halved)
    assert refused(server) == ["k is honoured"]
    server.always = _shifted
    assert "positions are aligned" in refused(server, k=W)
    server.always = _Drifting()
    assert refused(server)
    server.always = _Rounded()
    assert refused(server) == []
    server.always = lambda answer: answer["choices"][0].pop("prompt_logprobs")
    found = probed(server)
    assert [check.passed for check in found.values()] == [False] and "prompt_logprobs" in found[
        "scores given ids"
    ].found


def test_a_server_that_is_not_there_is_an_error_in_a_few_lines(materials: Path) -> None:
    model = str(materials / "models" / "smallmistral-stories")
    words = ("--path", model)
    code, out, _ = call("teacher", "probe", "http://127.0.0.1:9", *words, "--dialect", "llama_cpp")
    assert code == 1 and "NO" in out and "ConnectError" in out
    code, out, err = call("teacher", "probe", "http://127.0.0.1:9", *words)
    assert code != 0 and "no API that is known" in err and err.count("scores text by") == 3
    code, _, err = call("teacher", "probe", "127.0.0.1:9", *words)
    assert code == 2 and "no http:// or https:// address" in err

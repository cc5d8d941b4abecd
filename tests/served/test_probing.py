"""A server is asked what it is, once for a run, and no row is asked for where it does not give what it seems to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from distillab.config.served import ServerConfig
from distillab.pairing.loading import LoadedTokenizer
from distillab.records import ServerProbe
from distillab.teachers.served.client import Client
from distillab.teachers.served.dialects.dialect import Wanted
from distillab.teachers.served.dialects.vllm import Vllm
from distillab.teachers.served.errors import ServerError
from distillab.teachers.served.probe import TEXT
from distillab.teachers.served.probing import FILE, find_dialect, probed, probed_once
from distillab.teachers.served.scoring import score_row
from tests.served.faulty_server import Fault, FaultyServer, Status, W, serving
from tests.served.test_probe import _halved, _only_when


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with serving(FaultyServer()) as app:
        yield app


@pytest.fixture(scope="module")
def tokens() -> LoadedTokenizer:
    """A token a character, of 48."""
    characters = sorted(set(TEXT) | set("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"))[-W:]
    vocab = {character: id_ for id_, character in enumerate(sorted(set(TEXT)) + sorted(set(characters) - set(TEXT)))}
    vocab = dict(list(vocab.items())[:W])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE(vocab=vocab, merges=[])))
    assert len(tokenizer) == W
    return LoadedTokenizer(tokenizer, "characters", "characters", ())


Once = Callable[..., ServerProbe]


@pytest.fixture
def once(server: FaultyServer, tokens: LoadedTokenizer, tmp_path: Path) -> Once:
    def once(**settings: Any) -> ServerProbe:
        config = ServerConfig(**{"url": server.url, "model": "table", "k": 5, "tries": 1, **settings})
        return probed_once(config, tmp_path, tokens, fingerprint="t", width=W)

    return once


FORMS = {"vllm": "/v1/completions", "sglang": "/generate", "openai_chat": "/v1/chat/completions"}


@pytest.mark.parametrize("dialect", FORMS)
def test_a_dialect_is_found_by_asking(dialect: str, server: FaultyServer, tokens: LoadedTokenizer) -> None:
    server.paths = (FORMS[dialect],)
    # the name of the model is no hint
    config = ServerConfig(url=server.url, model="llama.cpp-sglang-vllm")
    found, tried = find_dialect(config, tokens)
    assert found == dialect
    asked = [request for request in server.asked if "messages" in request]
    assert len(asked) == (dialect == "openai_chat") and all(request["max_tokens"] <= 4 for request in asked)
    assert all("HTTP 404" in check.found for check in tried if not check.passed)


def test_a_server_that_has_several_forms_is_found_by_what_it_scores(
    server: FaultyServer, tokens: LoadedTokenizer
) -> None:
    server.paths = tuple(FORMS.values())
    config = ServerConfig(url=server.url, model="table")
    assert find_dialect(config, tokens)[0] == "sglang"
    # a proxy that drops log-probabilities gives text alone
    server.paths = ("/v1/completions", "/v1/chat/completions")
    server.always = lambda answer: answer["choices"][0].pop("prompt_logprobs", None)
    found, tried = find_dialect(config, tokens)
    assert found == "openai_chat" and "prompt_logprobs" in next(c.found for c in tried if "vllm" in c.name)
    assert find_dialect(config, None)[0] == "openai_chat"  # without a tokenizer only chat is asked


def test_where_nothing_fits_each_answer_is_named(server: FaultyServer, tokens: LoadedTokenizer) -> None:
    server.paths = ()
    with pytest.raises(ServerError, match="no API that is known") as caught:
        find_dialect(ServerConfig(url=server.url), tokens)
    text = str(caught.value)
    assert text.count("HTTP 404") == 3 and "needs the name of a model" in text


def test_it_is_asked_once_and_again_with_other_settings(once: Once, server: FaultyServer, tmp_path: Path) -> None:
    first = once()
    assert first.dialect == "vllm" and first.backend == "table" and (tmp_path / FILE).is_file()
    assert [check.name for check in first.checks if check.passed is False] == []
    assert first.cost is not None and first.cost.requests == sum(
        "prompt_logprobs" in request for request in server.asked
    )
    asked = len(server.asked)
    assert once() == first and len(server.asked) == asked
    assert once(k=6).k == 6 and len(server.asked) > asked


def test_a_text_server_is_asked_for_one_short_answer(server: FaultyServer) -> None:
    server.paths = ("/v1/chat/completions",)
    config = ServerConfig(url=server.url, dialect="openai_chat", model="table")
    found = probed(config, None, fingerprint="", width=0)
    assert len(server.asked) == 1 and [check.passed for check in found.checks] == [True]


def _clipped(answer: dict[str, Any]) -> None:
    """Three entries a position, and the actual token."""
    ids, positions = answer["request"]["prompt"], answer["choices"][0]["prompt_logprobs"]
    for actual, position in zip(ids[1:], positions[1:], strict=True):
        for id_, entry in list(position.items()):
            if entry["rank"] > 3 and id_ != str(actual):
                del position[id_]


LIES: dict[str, tuple[Fault, str]] = {
    "tempered": (_only_when("temperature", 2.0, _halved), "raw at temperature 2: differs"),
    "k clipped": (_clipped, "another number of entries"),
    "a BOS token added": (lambda answer: answer["usage"].update(prompt_tokens=22), "the server 22, sent"),
    "misaligned": (lambda answer: answer["choices"][0]["prompt_logprobs"].insert(1, {}), "positions: the server"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_server_that_lies_is_refused_with_what_it_did(
    lie: str, once: Once, server: FaultyServer, tmp_path: Path
) -> None:
    server.always, did = LIES[lie]
    with pytest.raises(ServerError, match="no row was asked for") as caught:
        once(dialect="vllm")
    assert did in str(caught.value) and not (tmp_path / FILE).exists()
    server.always = None
    once(dialect="vllm")


def test_a_backend_that_changes_after_the_probe_stops_the_run(once: Once, server: FaultyServer) -> None:
    found = once()
    server.always = lambda answer: answer.update(model="another")
    config = ServerConfig(url=server.url, model="table", k=5)
    with (
        closing(Client(config, None, tokenizer="t", backend=found.backend)) as client,
        pytest.raises(ServerError, match="another model than before"),
    ):
        score_row(client, Vllm("table"), Wanted([1, 2, 3], (1, 2), 5, W, "row"))


@pytest.mark.parametrize("fault", [Status(401), Status(500), lambda answer: answer.update(choices=[])])
def test_connections_are_closed_whatever_it_does(
    fault: Fault | Status, once: Once, server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Client] = []
    first = Client.__init__

    def kept(self: Client, *words: Any, **settings: Any) -> None:
        first(self, *words, **settings)
        opened.append(self)

    monkeypatch.setattr(Client, "__init__", kept)
    server.always = fault
    for dialect in ("auto", "vllm"):
        with pytest.raises(ServerError):
            once(dialect=dialect)
    assert len(opened) == 5 and all(client._sender._http.is_closed for client in opened)


def test_a_busy_server_is_not_judged(once: Once, server: FaultyServer) -> None:
    server.script = [Status(503)]
    assert once(dialect="vllm", tries=2).dialect == "vllm"

"""What servers do wrong: no wrong value is used, and no failed row is uncounted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distillab.cache.next_tokens import TopK
from distillab.config.served import ServerConfig
from distillab.errors import ConfigError
from distillab.teachers.served.client import Client
from distillab.teachers.served.dialects.dialect import Wanted
from distillab.teachers.served.dialects.vllm import Vllm
from distillab.teachers.served.errors import RowFailed, ServerError, WrongAnswer
from distillab.teachers.served.journal import ANSWERS, AnswerJournal
from distillab.teachers.served.scoring import score_row, score_rows
from tests.served.faulty_server import Bytes, Fault, FaultyServer, Instead, Status, W, serving, table

K = 5
ROW = Wanted([1, 7, 3, 30, 22, 9, 4], (2, 3, 4, 5, 6), K, W, "row 1")
KEY = "sk-planted-0123456789"


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyServer]:
    with serving(FaultyServer()) as app:
        yield app


@pytest.fixture
def asked(server: FaultyServer) -> FaultyServer:
    fresh = FaultyServer(url=server.url)
    server.__dict__.update(fresh.__dict__)
    return server


class Waits(list[float]):
    """The pauses that the client made, without making them."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


@pytest.fixture
def waits() -> Waits:
    return Waits()


Connect = Callable[..., Client]


@pytest.fixture
def connect(asked: FaultyServer, tmp_path: Path, waits: Waits) -> Iterator[Connect]:
    opened: list[tuple[Client, AnswerJournal]] = []

    def connect(**settings: Any) -> Client:
        for client, journal in opened:
            client.close()
            journal.close()
        opened.clear()
        config = ServerConfig(**{"url": asked.url, "dialect": "vllm", "model": "table", "k": K, **settings})
        journal = AnswerJournal(tmp_path)
        opened.append((Client(config, journal, tokenizer="t", wait=waits), journal))
        return opened[0][0]

    yield connect
    for client, journal in opened:
        client.close()
        journal.close()


def require_right(got: TopK) -> None:
    """Equal the table."""
    before = [ROW.ids[place - 1] for place in ROW.scored]
    logp = table()[before]
    order = np.argsort(-logp, axis=1, kind="stable")[:, :K]
    np.testing.assert_array_equal(got.ids, order)
    np.testing.assert_allclose(got.logp, np.take_along_axis(logp, order, 1), atol=1e-6)
    np.testing.assert_allclose(got.actual_logp, logp[range(5), [ROW.ids[place] for place in ROW.scored]], atol=1e-5)
    tail = 1 - np.exp(np.take_along_axis(logp, order, 1)).sum(axis=1)
    np.testing.assert_allclose(np.exp(got.tail_logmass), tail, atol=1e-6)


def positions(answer: dict[str, Any]) -> list[dict[str, Any] | None]:
    found: list[dict[str, Any] | None] = answer["choices"][0]["prompt_logprobs"]
    return found


def entry(answer: dict[str, Any], place: int = 3) -> dict[str, Any]:
    """The entries of a scored position."""
    found = positions(answer)[place]
    assert found is not None
    return found


def test_without_a_fault_it_is_the_table(connect: Connect, asked: FaultyServer) -> None:
    require_right(score_row(connect(), Vllm("table"), ROW))
    assert len(asked.asked) == 1


TRIED_AGAIN: dict[str, Status | Bytes] = {
    "429 with Retry-After": Status(429, headers={"retry-after": "7"}),
    "429 without it": Status(429),
    "a Retry-After that is no number": Status(429, headers={"retry-after": "soon"}),
    "500": Status(500),
    "502 of a proxy, as HTML": Status(502, b"<html>Bad gateway</html>"),
    "503": Status(503),
    "529": Status(529),
    "408": Status(408),
    "cut JSON, whole HTTP": Bytes(of=lambda content: content[:-40]),
    "an empty answer": Bytes(of=lambda content: b""),
    "a connection closed in the middle": Bytes(cut_at=60),
    "a connection closed before the first byte": Bytes(cut_at=0),
    "bytes that are no UTF-8": Bytes(of=lambda content: content.replace(b'"table"', b'"\xff\xfe"')),
    "two answers in one": Bytes(of=lambda content: content + content),
    "NaN as Python writes it": Bytes(of=lambda content: content.replace(b'"logprob": -', b'"logprob": NaN, "x": -')),
}


@pytest.mark.parametrize("fault", TRIED_AGAIN.values(), ids=TRIED_AGAIN)
def test_what_may_pass_is_tried_again(
    fault: Status | Bytes, connect: Connect, asked: FaultyServer, waits: Waits
) -> None:
    asked.script = [fault, fault]
    client = connect()
    require_right(score_row(client, Vllm("table"), ROW))
    assert len(asked.asked) == 3 and client.counts.failed_tries == 2
    if isinstance(fault, Status) and fault.headers.get("retry-after") == "7":
        assert waits == [7.0, 7.0]
    else:
        assert 0.25 <= waits[0] <= 0.5 <= waits[1] <= 1.0


def test_bytes_that_come_too_slowly_end_at_the_time_limit(connect: Connect, asked: FaultyServer) -> None:
    asked.script = [Bytes(pause_s=0.05)]
    client = connect(timeout_s=0.4)
    require_right(score_row(client, Vllm("table"), ROW))
    assert client.counts.failed_tries == 1


@pytest.mark.parametrize("fault", [Status(500), Bytes(cut_at=10)], ids=["500", "cut"])
def test_a_request_has_a_budget_of_tries(fault: Status | Bytes, connect: Connect, asked: FaultyServer) -> None:
    asked.always = fault
    with pytest.raises(RowFailed, match="no usable answer") as caught:
        score_row(connect(tries=3), Vllm("table"), ROW)
    assert len(asked.asked) == 3 and "try 3" in str(caught.value)


def _shifted(by: int) -> Fault:
    def shift(answer: dict[str, Any]) -> None:
        found = positions(answer)
        found[1:] = np.roll(np.array(found[1:], dtype=object), by).tolist()

    return shift


def _every(change: Callable[[dict[str, Any]], object]) -> Fault:
    def fault(answer: dict[str, Any]) -> None:
        for place in ROW.scored:
            change(entry(answer, place))

    return fault


def _set(value: float) -> Fault:
    return lambda answer: entry(answer)[next(iter(entry(answer)))].update(logprob=value)


def _tempered(entries: dict[str, Any]) -> None:
    for value in entries.values():
        value["logprob"] /= 2


def _renamed_id(answer: dict[str, Any]) -> None:
    entries = entry(answer)
    other = next(name for name in entries if name != str(ROW.ids[3]))
    entries[str(W + 5)] = entries.pop(other)


def _drop_last(entries: dict[str, Any]) -> None:
    del entries[max(entries, key=lambda id_: entries[id_]["rank"] if id_ not in map(str, ROW.ids) else 0)]


WRONG: dict[str, Fault | Bytes] = {
    "no prompt_logprobs": lambda answer: answer["choices"][0].pop("prompt_logprobs"),
    "prompt_logprobs is null": lambda answer: answer["choices"][0].update(prompt_logprobs=None),
    "shifted to the right": _shifted(1),
    "shifted to the left": _shifted(-1),
    "one position more": lambda answer: positions(answer).append(entry(answer)),
    "one position less": lambda answer: positions(answer).pop(),
    "a BOS token added": lambda answer: answer["usage"].update(prompt_tokens=8),
    "null at a scored position": lambda answer: positions(answer).__setitem__(3, None),
    "k - 1 entries": _every(_drop_last),
    "an id beyond the vocabulary": _renamed_id,
    "a negative id": lambda answer: entry(answer).update({"-1": entry(answer).popitem()[1]}),
    "-9999 for minus infinity": _set(-9999.0),
    "a positive log-probability": _set(0.7),
    "null for a log-probability": lambda answer: entry(answer)[str(ROW.ids[3])].update(logprob=None),
    "a text as key": lambda answer: entry(answer).update({"a": entry(answer).popitem()[1]}),
    "mass above one": _every(lambda entries: [value.update(logprob=-0.5) for value in entries.values()]),
    "probabilities in place of their logarithms": _every(
        lambda entries: [value.update(logprob=float(np.exp(value["logprob"]))) for value in entries.values()]
    ),
    "an id twice": Bytes(of=lambda content: _id_twice(content)),
    "no choice": lambda answer: answer.update(choices=[]),
    "two choices": lambda answer: answer["choices"].append(answer["choices"][0]),
    "a list": lambda answer: Instead([answer]),
    "an error with status 200": lambda answer: Instead({"error": {"message": "overloaded"}}),
}


def _id_twice(content: bytes) -> bytes:
    """JSON can have a key twice; a parser keeps the last."""
    answer = json.loads(content)
    names = [name for name in entry(answer) if name != str(ROW.ids[3])]
    text = json.dumps(entry(answer))
    return content.replace(text.encode(), text.replace(f'"{names[1]}"', f'"{names[0]}"').encode())


@pytest.mark.parametrize("fault", WRONG.values(), ids=WRONG)
def test_a_wrong_answer_fails_its_row_and_is_not_stored(
    fault: Fault | Bytes, connect: Connect, asked: FaultyServer
) -> None:
    asked.script = [fault]
    client = connect()
    with pytest.raises(WrongAnswer):
        score_row(client, Vllm("table"), ROW)
    assert len(asked.asked) == 1
    require_right(score_row(client, Vllm("table"), ROW))
    assert len(asked.asked) == 2


FATAL = {"401": 401, "403": 403, "404, another model": 404, "a redirect": 307}


@pytest.mark.parametrize("status", FATAL.values(), ids=FATAL)
def test_what_no_try_can_help_stops_at_once(status: int, connect: Connect, asked: FaultyServer) -> None:
    asked.always = Status(status, b'{"error": "no"}', {"location": "http://127.0.0.1:9/"})
    with pytest.raises(ServerError, match="cannot be used"):
        score_row(connect(), Vllm("table"), ROW)
    assert len(asked.asked) == 1


def test_a_long_retry_after_stops_the_run(connect: Connect, asked: FaultyServer) -> None:
    asked.always = Status(429, headers={"retry-after": "86400"})
    with pytest.raises(ServerError, match="wait for a long time"):
        score_row(connect(), Vllm("table"), ROW)


def test_another_backend_stops_the_run(connect: Connect, asked: FaultyServer) -> None:
    client = connect()
    score_row(client, Vllm("table"), ROW)
    asked.always = lambda answer: answer.update(model="another")
    with pytest.raises(ServerError, match="another model than before"):
        score_row(client, Vllm("table"), Wanted([1, 2, 3], (1, 2), K, W, "row 2"))


def rows(count: int) -> list[Wanted]:
    return [Wanted([1, 2 + number % 30, number // 30], (1, 2), K, W, f"row {number}") for number in range(count)]


def test_failed_rows_are_counted_and_stop_the_run_beyond_the_ceiling(connect: Connect, asked: FaultyServer) -> None:
    asked.script = [Status(422)] * 2
    results = [result for _, result in score_rows(connect(), Vllm("table"), rows(20), failed_rows=0.1)]
    assert sum(isinstance(result, RowFailed) for result in results) == 2 and len(results) == 20
    asked.script = [Status(422)] * 3
    client = connect()
    other = [Wanted([5, *row.ids], row.scored, K, W, row.where) for row in rows(20)]
    with pytest.raises(ServerError, match="Too many rows failed") as caught:
        list(score_rows(client, Vllm("table"), other, failed_rows=0.1))
    assert "failed: 3 of 20 rows" in str(caught.value)


def test_as_many_requests_at_once_as_set_and_fewer_after_a_refusal(connect: Connect, asked: FaultyServer) -> None:
    asked.busy_s = 0.02
    list(score_rows(connect(concurrency=3), Vllm("table"), rows(30)))
    assert asked.most_running == 3
    asked.script, asked.most_running = [Status(429)], 0
    client = connect(concurrency=8)
    list(score_rows(client, Vllm("table"), [Wanted([3, *row.ids], (1,), K, W, "") for row in rows(12)]))
    assert asked.most_running <= 4


def test_connections_are_kept_open(connect: Connect, asked: FaultyServer) -> None:
    client = connect(concurrency=1)
    list(score_rows(client, Vllm("table"), rows(10)))
    pool = client._http._transport._pool  # type: ignore[attr-defined]
    assert len(asked.asked) == 10 and len(pool.connections) == 1


def test_the_key_is_sent_and_is_in_nothing_that_is_left(
    connect: Connect, asked: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANTED_API_KEY", KEY)
    client = connect(api_key_env="PLANTED_API_KEY", tries=1)
    asked.script = [lambda answer: answer.update(system_fingerprint=f"you are {KEY}")]
    score_row(client, Vllm("table"), ROW)
    assert asked.headers[0]["authorization"] == f"Bearer {KEY}"
    errors: list[str] = []
    for fault in (Status(500, KEY.encode()), Status(401, KEY.encode()), Bytes(of=lambda content: KEY.encode())):
        asked.script = [fault]
        with pytest.raises((RowFailed, ServerError)) as caught:
            score_row(client, Vllm("table"), rows(1)[0])
        errors.append(str(caught.value))
    assert KEY not in "".join(errors) and "${PLANTED_API_KEY}" in "".join(errors)
    stored = AnswerJournal.get(client._journal, next(iter(client._journal._places)))
    assert stored is not None and KEY.encode() not in stored and (tmp_path / ANSWERS).exists()
    assert not any(KEY.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize("value", [None, "short"])
def test_a_key_that_is_not_there_is_said_before_anything_is_asked(
    value: str | None, connect: Connect, asked: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PLANTED_API_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("PLANTED_API_KEY", value)
    with pytest.raises(ConfigError, match="not in the environment"):
        connect(api_key_env="PLANTED_API_KEY")
    assert not asked.asked

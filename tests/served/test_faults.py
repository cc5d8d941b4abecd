"""What servers do wrong: no wrong value is used, and no failed row is uncounted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distillab.cache.next_tokens import TopK
from distillab.config.served import ServerConfig
from distillab.data.collation import Collator, IndexedRow
from distillab.data.encoding import EncodedRow
from distillab.errors import ConfigError, TeacherError
from distillab.teachers.served import sending
from distillab.teachers.served.client import Client
from distillab.teachers.served.dialects.dialect import Wanted
from distillab.teachers.served.dialects.vllm import Vllm
from distillab.teachers.served.errors import RowFailed, ServerError
from distillab.teachers.served.journal import ANSWERS, AnswerJournal
from distillab.teachers.served.scoring import score_row, score_rows
from distillab.teachers.served.teacher import ServedTeacher
from distillab.teachers.signals import SignalRequest, Top
from tests.served.faults import MISBEHAVIOURS, ROW, TRIED_AGAIN, K
from tests.served.faulty_server import Bytes, FaultyServer, Status, W, serving, table

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


def test_without_a_fault_it_is_the_table(connect: Connect, asked: FaultyServer) -> None:
    require_right(score_row(connect(), Vllm("table"), ROW))
    assert len(asked.asked) == 1


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


def other_row(number: int) -> EncodedRow:
    return encoded([5, *ROW.ids[1:-1], number])


def encoded(ids: Sequence[int]) -> EncodedRow:
    """With the scored tokens of `ROW`."""
    array = np.array(ids, np.int32)
    return EncodedRow(key="r", input_ids=array, answer_mask=np.arange(len(array)) >= ROW.scored[0], prompt_length=2)


def test_there_are_thirty_of_them_and_more() -> None:
    assert len(MISBEHAVIOURS) >= 30


@pytest.mark.parametrize("name", MISBEHAVIOURS)
def test_none_is_trained_on_and_no_row_is_lost_uncounted(
    name: str, connect: Connect, asked: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third row of a batch meets the misbehaviour; what training reads is right, or there is none."""
    fault, outcome = MISBEHAVIOURS[name]
    monkeypatch.setattr(sending, "_LARGEST_BYTES", 2**19)
    batch = Collator(0)([IndexedRow(n, row) for n, row in enumerate([other_row(1), other_row(2), encoded(ROW.ids)])])
    request = SignalRequest(frozenset({Top(K, W)}))
    asked.script = [None, None, fault]
    source = teacher(connect(concurrency=1, model="table"))
    if outcome != "again":
        with pytest.raises(TeacherError) as caught:
            source.signal(batch, request)
        assert isinstance(caught.value, ServerError)
        assert ("failed: 1 of 3 rows" in str(caught.value)) == (outcome == "row")
        # nothing of it was stored: the next start asks for this row alone
        source = teacher(connect(concurrency=1))
    scores = source.signal(batch, request).scores
    assert scores is not None and len(asked.asked) == 4
    before = [id_ for row in ([5, *ROW.ids[1:]], [5, *ROW.ids[1:]], ROW.ids) for id_ in row[1:-1]]
    wanted = torch.from_numpy(table()[before]).float()
    torch.testing.assert_close(scores.top(K, W, 1.0).logp, wanted.topk(K).values)
    targets = [id_ for last in (1, 2, ROW.ids[-1]) for id_ in [*ROW.ids[2:-1], last]]
    torch.testing.assert_close(scores.actual(torch.empty(0), W, 1.0), wanted[range(15), targets])


def teacher(client: Client) -> ServedTeacher:
    cpu = torch.device("cpu")
    return ServedTeacher(client, Vllm("table"), width=W, name="served", template_sha256="0", device=cpu)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("401", "cannot be used"),
        ("a redirect", "cannot be used"),
        ("a Retry-After of a day", "wait for a long time"),
        ("another model answers", "another model than before"),
        ("an answer of a megabyte", "larger than any"),
    ],
)
def test_the_reason_is_said_and_nothing_more_is_asked(
    name: str, reason: str, connect: Connect, asked: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "_LARGEST_BYTES", 2**19)
    client = connect()
    score_row(client, Vllm("table"), ROW)
    asked.always = MISBEHAVIOURS[name][0]
    with pytest.raises(ServerError, match=reason):
        score_row(client, Vllm("table"), rows(1)[0])
    assert len(asked.asked) == 2


def test_another_content_type_does_no_harm(connect: Connect, asked: FaultyServer) -> None:
    asked.always = Bytes(headers={"content-type": "text/plain"})
    require_right(score_row(connect(), Vllm("table"), ROW))
    assert len(asked.asked) == 1


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
    pool = client._sender._http._transport._pool  # type: ignore[attr-defined]
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

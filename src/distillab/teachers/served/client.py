"""A client of one server: an answer is stored before it is used, and what it took is counted."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from distillab.config.served import ServerConfig
from distillab.records import ServedCost
from distillab.teachers.served.cost import Account, served_cost
from distillab.teachers.served.errors import RowFailed, ServerError
from distillab.teachers.served.exchange import Call, Paid, Read, Reading, Usage
from distillab.teachers.served.journal import NOT_KEPT, AnswerJournal, answer_key, paid_in
from distillab.teachers.served.sending import Sender

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Counts:
    """What a client has done. asked: requests sent, failed tries included; stored: answers read from the journal."""

    asked: int
    stored: int
    failed_tries: int
    usage: Usage


class Client:
    """Sends requests to one server.

    Args:
        journal: where answers are stored; None: nowhere, for requests that are to be asked again.
        tokenizer: fingerprint of the tokenizer that makes the ids; "" where requests hold text.
        backend: the model as the server named it before; "": not known.
        account: of all clients of one teacher; default: of this one.
        wait: sleeps for some seconds.
    Raises:
        ConfigError: the environment variable of the key is not set, or its value is too short to be redacted.
    """

    def __init__(
        self,
        server: ServerConfig,
        journal: AnswerJournal | None,
        *,
        tokenizer: str,
        backend: str = "",
        account: Account | None = None,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        self.server = server
        self.account = account or Account(server)
        if journal is not None:
            self.account.include(journal.path.parent)
        self._journal, self._tokenizer = journal, tokenizer
        self._sender = Sender(server, wait)
        self._lock = threading.Lock()
        self._asking: dict[bytes, tuple[threading.Lock, int]] = {}
        self._stored = 0
        self._usage, self._backend = Usage(), backend
        self._last_answer = 0.0
        weakref.finalize(self, self._sender.close)

    @property
    def backend(self) -> str:
        """The model as the server names it; "" before the first answer, or where it names none."""
        return self._backend

    @property
    def counts(self) -> Counts:
        """What was done so far."""
        asked, failed = self._sender.tries
        with self._lock:
            return Counts(asked, self._stored, failed, self._usage)

    @property
    def cost(self) -> ServedCost | None:
        """What the answers in the journal took, those of earlier starts too; None if there are none."""
        paid = Paid() if self._journal is None else paid_in(self._journal.path.parent)
        return served_cost(paid, self.server.prices)

    def close(self) -> None:
        """Close the connections."""
        self._sender.close()

    def ask(self, call: Call, read: Read[T], *, keep: bool = True) -> T:
        """Return the checked value of an answer, from the journal if it is there.

        Args:
            keep: False: the request is new, and its answer of no later use; what it took is kept alone.
        Raises:
            RowFailed: the answer is wrong, the server refuses this request, or no try succeeded.
            ServerError: the server cannot be used.
        """
        server = self.server
        key = answer_key(
            server=server.url, model=server.model, tokenizer=self._tokenizer, path=call.path, body=call.body
        )
        if self._journal is None or not keep:
            return self._bought(key, call, read, keep=keep)
        with self._alone(key):
            stored = self._journal.get(key)
            if stored is None:
                return self._bought(key, call, read)
            with self._lock:
                self._stored += 1
            return self._same_backend(read(stored))

    def _bought(self, key: bytes, call: Call, read: Read[T], *, keep: bool = True) -> T:
        """Ask, store the answer and count what it took."""
        start = time.monotonic()
        with self.account.one_more():
            content, reading, tries = self._sender.answered(call, read)
            value = self._counted(reading)
            paid = Paid(reading.usage, tries, self._seconds_since(start))
            if self._journal is not None:
                self._journal.store_answer(key if keep else NOT_KEPT, content if keep else b"", paid)
            self.account.add(paid)
        return value

    def _seconds_since(self, start: float) -> float:
        """Return the seconds since a request began or, if that is later, since the last answer to another."""
        with self._lock:
            before, self._last_answer = self._last_answer, time.monotonic()
            return self._last_answer - max(start, before)

    def each(
        self, items: Sequence[R], do: Callable[[R], T], *, failed_rows: float
    ) -> Iterator[tuple[R, T | RowFailed]]:
        """Do something for many rows at once; yield each row, in their order, with its result or its failure.

        Args:
            failed_rows: largest share of them that may fail.
        Raises:
            ServerError: the server cannot be used, or more rows failed.
        """
        failures: list[RowFailed] = []

        def one(item: R) -> T | RowFailed:
            try:
                return do(item)
            except RowFailed as error:
                return error

        with ThreadPoolExecutor(self.server.concurrency, thread_name_prefix="served") as pool:
            results: Iterable[T | RowFailed] = pool.map(one, items)
            try:
                for item, result in zip(items, results, strict=True):
                    if isinstance(result, RowFailed):
                        failures.append(result)
                        if len(failures) > failed_rows * len(items):
                            raise self._too_many(failures, len(items), failed_rows) from result
                    yield item, result
            finally:
                pool.shutdown(cancel_futures=True)

    @contextmanager
    def _alone(self, key: bytes) -> Iterator[None]:
        """Let one thread at a time ask for an answer: a batch can have a row twice."""
        with self._lock:
            mine, users = self._asking.get(key, (threading.Lock(), 0))
            self._asking[key] = mine, users + 1
        try:
            with mine:
                yield
        finally:
            with self._lock:
                _, users = self._asking[key]
                if users > 1:
                    self._asking[key] = mine, users - 1
                else:
                    del self._asking[key]

    def _counted(self, reading: Reading[T]) -> T:
        value = self._same_backend(reading)
        with self._lock:
            self._usage += reading.usage
        return value

    def _same_backend(self, reading: Reading[T]) -> T:
        """Return the value of an answer; a proxy can send two requests to two models."""
        with self._lock:
            first = self._backend = self._backend or reading.backend or ""
        if reading.backend is not None and reading.backend != first:
            raise ServerError(
                "The server answers with another model than before.",
                where=self.server.url,
                facts=[f"before: {first}", f"now: {reading.backend}"],
                fix="address one model of one backend; answers of several models are no one teacher",
            )
        return reading.value

    def _too_many(self, failures: Sequence[RowFailed], rows: int, allowed: float) -> ServerError:
        return ServerError(
            "Too many rows failed.",
            where=self.server.url,
            facts=[
                f"failed: {len(failures)} of {rows} rows; allowed: {allowed:.0%}",
                *(f"{failure.rule} ({'; '.join(failure.facts[:2])})" for failure in failures[-3:]),
            ],
            fix=failures[-1].fix or "correct the cause, then run the same command again: answers so far are stored",
        )

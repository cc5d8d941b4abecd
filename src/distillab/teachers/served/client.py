"""Ask a server over HTTP: connections stay open, failures are tried again, an answer is stored before it is used."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import httpx2
import msgspec

from distillab.config.served import ServerConfig
from distillab.records import ServedCost
from distillab.redaction import redacted
from distillab.teachers.served.cost import Account, served_cost
from distillab.teachers.served.errors import CutAnswer, RefusedRequest, RowFailed, ServerError
from distillab.teachers.served.exchange import Call, Paid, Read, Reading, Usage
from distillab.teachers.served.journal import AnswerJournal, answer_key, paid_in
from distillab.teachers.served.key import authorisation, read_key
from distillab.teachers.served.pace import Gate, back_off_s, retry_after_s

T = TypeVar("T")
R = TypeVar("R")

_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_TOO_MUCH = frozenset({429, 503, 529})
_OF_THIS_REQUEST = frozenset({400, 413, 422})
_LONGEST_RETRY_AFTER_S = 600.0
_LARGEST_BYTES = 2**29


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
        self._journal, self._tokenizer, self._wait = journal, tokenizer, wait
        self._key = read_key(server.api_key_env)
        self._gate = Gate(server.concurrency)
        self._lock = threading.Lock()
        self._asking: dict[bytes, tuple[threading.Lock, int]] = {}
        self._asked = self._stored = self._failed = 0
        self._usage, self._backend = Usage(), backend
        self._last_answer = 0.0
        limits = httpx2.Limits(max_connections=server.concurrency, max_keepalive_connections=server.concurrency)
        # auth as a function, so that no ~/.netrc replaces the key
        self._http = httpx2.Client(auth=authorisation(self._key), timeout=server.timeout_s, limits=limits)
        weakref.finalize(self, self._http.close)

    @property
    def backend(self) -> str:
        """The model as the server names it; "" before the first answer, or where it names none."""
        return self._backend

    @property
    def counts(self) -> Counts:
        """What was done so far."""
        with self._lock:
            return Counts(self._asked, self._stored, self._failed, self._usage)

    @property
    def cost(self) -> ServedCost | None:
        """What the answers in the journal took, those of earlier starts too; None if there are none."""
        paid = Paid() if self._journal is None else paid_in(self._journal.path.parent)
        return served_cost(paid, self.server.prices)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def ask(self, call: Call, read: Read[T]) -> T:
        """Return the checked value of an answer, from the journal if it is there.

        Raises:
            RowFailed: the answer is wrong, the server refuses this request, or no try succeeded.
            ServerError: the server cannot be used.
        """
        server = self.server
        key = answer_key(
            server=server.url, model=server.model, tokenizer=self._tokenizer, path=call.path, body=call.body
        )
        if self._journal is None:
            return self._bought(key, call, read)
        with self._alone(key):
            stored = self._journal.get(key)
            if stored is None:
                return self._bought(key, call, read)
            with self._lock:
                self._stored += 1
            return self._same_backend(read(stored))

    def _bought(self, key: bytes, call: Call, read: Read[T]) -> T:
        """Ask, store the answer and count what it took."""
        start = time.monotonic()
        with self.account.one_more():
            content, reading, tries = self._answered(call, read)
            value = self._counted(reading)
            paid = Paid(reading.usage, tries, self._seconds_since(start))
            if self._journal is not None:
                self._journal.store_answer(key, content, paid)
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

    def _answered(self, call: Call, read: Read[T]) -> tuple[bytes, Reading[T], int]:
        """Try until an answer is whole and right; return it with the number of tries."""
        why: list[str] = []
        for attempt in range(1, self.server.tries + 1):
            with self._lock:
                self._asked += 1
            wait_s: float | None = None
            try:
                with self._gate.one():
                    status, headers, content = self._sent(call)
                if status == 200:
                    reading = read(content)
                    self._gate.succeeded()
                    return content, reading, attempt
                wait_s = self._refused(call, status, headers, content)
                why.append(f"HTTP {status}: {_said(content)}")
            except CutAnswer as error:
                why.append("; ".join(error.facts))
            except (httpx2.TransportError, httpx2.DecodingError) as error:
                why.append(f"{type(error).__name__}: {error}")
            with self._lock:
                self._failed += 1
            if attempt < self.server.tries:
                self._wait(max(back_off_s(attempt), wait_s or 0.0))
        raise RowFailed(
            "The server gave no usable answer to a request.",
            where=self.server.url + call.path,
            facts=[f"tries: {self.server.tries}", *(f"try {n}: {text}" for n, text in enumerate(why, start=1))],
            fix="if it is only busy: raise teacher.server.tries or lower concurrency; answers so far are stored",
        )

    def _sent(self, call: Call) -> tuple[int, httpx2.Headers, bytes]:
        """Send a request once; its whole answer must come within timeout_s, however slowly its bytes come."""
        deadline = time.monotonic() + self.server.timeout_s
        content = bytearray()
        body = msgspec.json.encode(call.body)
        headers = {"Content-Type": "application/json"}
        with self._http.stream("POST", self.server.url + call.path, content=body, headers=headers) as answer:
            for part in answer.iter_bytes():
                content += part
                if time.monotonic() > deadline:
                    raise httpx2.ReadTimeout(f"not whole after {self.server.timeout_s:g} s")
                if len(content) > _LARGEST_BYTES:
                    raise ServerError(
                        "The answer of the server is larger than any that was asked for.",
                        where=self.server.url + call.path,
                        facts=[f"more than {_LARGEST_BYTES:,} bytes"],
                        fix="lower teacher.server.k",
                    )
            return answer.status_code, answer.headers, self._without_key(bytes(content))

    def _refused(self, call: Call, status: int, headers: httpx2.Headers, content: bytes) -> float | None:
        """Return the seconds that the server asks to wait; raise where the same request will never succeed."""
        where, said = self.server.url + call.path, _said(content)
        if status in _TOO_MUCH:
            self._gate.refused()
        if status in _AGAIN:
            wait_s = retry_after_s(headers.get("Retry-After"))
            if wait_s is not None and wait_s > _LONGEST_RETRY_AFTER_S:
                raise ServerError(
                    "The server asks to wait for a long time.",
                    where=where,
                    facts=[f"HTTP {status}, Retry-After: {wait_s:,.0f} s", said],
                    fix="run the same command again later: answers so far are stored",
                )
            return wait_s
        if status in _OF_THIS_REQUEST:
            raise RefusedRequest("The server refuses a request.", where=where, facts=[f"HTTP {status}: {said}"])
        raise ServerError(
            "The server cannot be used.",
            where=where,
            facts=[f"HTTP {status}: {said}", f"model: {self.server.model}", f"key: {self._whence()}"],
            fix="check teacher.server: url, model, dialect, api_key_env",
        )

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

    def _without_key(self, content: bytes) -> bytes:
        # a server that repeats the key in its answer would have it written to the journal
        return content if self._key is None else content.replace(self._key.encode(), self._whence().encode())

    def _whence(self) -> str:
        return "none" if self.server.api_key_env is None else f"${{{self.server.api_key_env}}}"


def _said(content: bytes) -> str:
    """Return the message of an error answer."""
    return redacted(ascii(content[:300].decode("utf-8", "replace")))

"""Send requests over HTTP: connections stay open, and what may pass is tried again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import httpx2
import msgspec

from distillab.config.served import ServerConfig
from distillab.redaction import redacted
from distillab.teachers.served.errors import CutAnswer, RefusedRequest, RowFailed, ServerError
from distillab.teachers.served.exchange import Call, Read, Reading
from distillab.teachers.served.key import authorisation, read_key
from distillab.teachers.served.pace import Gate, back_off_s, retry_after_s

T = TypeVar("T")

_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_TOO_MUCH = frozenset({429, 503, 529})
_OF_THIS_REQUEST = frozenset({400, 413, 422})
_LONGEST_RETRY_AFTER_S = 600.0
_LARGEST_BYTES = 2**29


class Sender:
    """The connections to one server. Threads may share it.

    Args:
        wait: sleeps for some seconds.
    Raises:
        ConfigError: the environment variable of the key is not set, or its value is too short to be redacted.
    """

    def __init__(self, server: ServerConfig, wait: Callable[[float], object]) -> None:
        self._server, self._wait = server, wait
        self._key = read_key(server.api_key_env)
        self._gate = Gate(server.concurrency)
        self._lock = threading.Lock()
        self._asked = self._failed = 0
        limits = httpx2.Limits(max_connections=server.concurrency, max_keepalive_connections=server.concurrency)
        # auth as a function, so that no ~/.netrc replaces the key
        self._http = httpx2.Client(auth=authorisation(self._key), timeout=server.timeout_s, limits=limits)

    @property
    def tries(self) -> tuple[int, int]:
        """Requests sent, and those of them that failed."""
        with self._lock:
            return self._asked, self._failed

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def answered(self, call: Call, read: Read[T]) -> tuple[bytes, Reading[T], int]:
        """Try until an answer is whole and right; return it with the number of tries.

        Raises:
            RowFailed: the answer is wrong, the server refuses this request, or no try succeeded.
            ServerError: the server cannot be used.
        """
        why: list[str] = []
        for attempt in range(1, self._server.tries + 1):
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
            if attempt < self._server.tries:
                self._wait(max(back_off_s(attempt), wait_s or 0.0))
        raise RowFailed(
            "The server gave no usable answer to a request.",
            where=self._server.url + call.path,
            facts=[f"tries: {self._server.tries}", *(f"try {n}: {text}" for n, text in enumerate(why, start=1))],
            fix="if it is only busy: raise teacher.server.tries or lower concurrency; answers so far are stored",
        )

    def _sent(self, call: Call) -> tuple[int, httpx2.Headers, bytes]:
        """Send a request once; its whole answer must come within timeout_s, however slowly its bytes come."""
        deadline = time.monotonic() + self._server.timeout_s
        content = bytearray()
        body = msgspec.json.encode(call.body)
        headers = {"Content-Type": "application/json"}
        with self._http.stream("POST", self._server.url + call.path, content=body, headers=headers) as answer:
            for part in answer.iter_bytes():
                content += part
                if time.monotonic() > deadline:
                    raise httpx2.ReadTimeout(f"not whole after {self._server.timeout_s:g} s")
                if len(content) > _LARGEST_BYTES:
                    raise ServerError(
                        "The answer of the server is larger than any that was asked for.",
                        where=self._server.url + call.path,
                        facts=[f"more than {_LARGEST_BYTES:,} bytes"],
                        fix="lower teacher.server.k",
                    )
            return answer.status_code, answer.headers, self._without_key(bytes(content))

    def _refused(self, call: Call, status: int, headers: httpx2.Headers, content: bytes) -> float | None:
        """Return the seconds that the server asks to wait; raise where the same request will never succeed."""
        where, said = self._server.url + call.path, _said(content)
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
            facts=[f"HTTP {status}: {said}", f"model: {self._server.model}", f"key: {self._whence()}"],
            fix="check teacher.server: url, model, dialect, api_key_env",
        )

    def _without_key(self, content: bytes) -> bytes:
        # a server that repeats the key in its answer would have it written to the journal
        return content if self._key is None else content.replace(self._key.encode(), self._whence().encode())

    def _whence(self) -> str:
        return "none" if self._server.api_key_env is None else f"${{{self._server.api_key_env}}}"


def _said(content: bytes) -> str:
    """Return the message of an error answer."""
    return redacted(ascii(content[:300].decode("utf-8", "replace")))

"""A server in the form of vLLM's (or others, see `paths`) that misbehaves on command: an ASGI app on a real socket.

Its right answers are those of a table: after every token the same distribution. `script` holds what it does to the
next requests, one entry a request; after the last it answers rightly.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import uvicorn

W = 48
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Fault = Callable[[dict[str, Any]], Any]
"""Changes an answer in place, or returns `Instead`."""


@dataclass
class Instead:
    """What replaces an answer."""

    value: Any


def table(seed: int = 0) -> np.ndarray:
    """(W, W) float64 log-probabilities of the next token after each token."""
    logits = 3 * np.random.default_rng(seed).standard_normal((W, W))
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


@dataclass
class Status:
    """An answer with another status."""

    code: int
    body: bytes = b'{"error": {"message": "not now"}}'
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Bytes:
    """The right answer's bytes, changed. `of` gets them; `pause_s` is between two bytes of the first 50."""

    of: Callable[[bytes], bytes] = lambda content: content
    pause_s: float = 0.0
    cut_at: int | None = None
    """Close the connection after so many bytes, of more that were announced."""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class FaultyServer:
    """What it was asked, and what it will do; it answers at `paths` alone."""

    paths: tuple[str, ...] = ("/v1/completions",)
    script: list[Fault | Status | Bytes | None] = field(default_factory=list)
    always: Fault | Status | Bytes | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    busy_s: float = 0.0
    url: str = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        request = json.loads(body)
        self.asked.append(request)
        self.headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
        if scope["path"] not in self.paths:
            fault: Fault | Status | Bytes | None = Status(404, b'{"detail": "Not Found"}')
        else:
            fault = self.script.pop(0) if self.script else self.always
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        await asyncio.sleep(self.busy_s)
        self.running -= 1
        await self._answer(scope["path"], request, fault, send)

    async def _answer(
        self, path: str, request: dict[str, Any], fault: Fault | Status | Bytes | None, send: Send
    ) -> None:
        status, headers = 200, {}
        if isinstance(fault, Status):
            status, headers, content = fault.code, fault.headers, fault.body
        else:
            answer = RIGHT[path](request)
            if callable(fault):
                changed = fault(answer)
                answer = changed.value if isinstance(changed, Instead) else answer
            content = json.dumps(answer).encode()
        how = fault if isinstance(fault, Bytes) else Bytes()
        content = how.of(content)
        headers = {"content-type": "application/json", "content-length": str(len(content)), **how.headers, **headers}
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        if how.pause_s:
            for at in range(50):
                await send({"type": "http.response.body", "body": content[at : at + 1], "more_body": True})
                await asyncio.sleep(how.pause_s)
            content = content[50:]
        if how.cut_at is not None:
            await send({"type": "http.response.body", "body": content[: how.cut_at], "more_body": True})
            return  # uvicorn then closes the connection
        await send({"type": "http.response.body", "body": content})


def vllm_answer(request: dict[str, Any]) -> dict[str, Any]:
    """What vLLM answers."""
    if "prompt_logprobs" not in request:
        return vllm_text(request)
    ids, k, logp_WW = request["prompt"], request["prompt_logprobs"], table()
    positions: list[dict[str, Any] | None] = [None]
    for before, actual in itertools.pairwise(ids):
        order = np.argsort(-logp_WW[before], kind="stable")
        ranks = {int(id_): rank for rank, id_ in enumerate(order, start=1)}
        kept = dict.fromkeys([actual, *(int(id_) for id_ in order[:k])])
        positions.append({str(i): {"logprob": float(logp_WW[before, i]), "rank": ranks[i]} for i in kept})
    return {
        "request": request,
        "model": "table",
        "choices": [
            {"index": 0, "text": "x", "finish_reason": "length", "prompt_logprobs": positions, "prompt_token_ids": ids}
        ],
        "usage": {"prompt_tokens": len(ids), "completion_tokens": 1},
    }


def vllm_text(request: dict[str, Any]) -> dict[str, Any]:
    """What vLLM answers to a prompt: the most likely tokens."""
    ids, stops = list(request["prompt"]), request["stop_token_ids"]
    while len(ids) < len(request["prompt"]) + request["max_tokens"] and ids[-1] not in stops:
        ids.append(int(table()[ids[-1]].argmax()))
    written = ids[len(request["prompt"]) :]
    ended = written[-1] if written[-1] in stops else None
    choice = {
        "index": 0,
        "text": "x",
        "token_ids": written,
        "finish_reason": "length" if ended is None else "stop",
        "stop_reason": ended,
    }
    usage = {"prompt_tokens": len(request["prompt"]), "completion_tokens": len(written)}
    return {"model": "table", "choices": [choice], "usage": usage}


def sglang_answer(request: dict[str, Any]) -> dict[str, Any]:
    """What SGLang answers."""
    ids, k, start, logp_WW = request["input_ids"], request["top_logprobs_num"], request["logprob_start_len"], table()
    actual: list[list[Any]] = [[None, ids[start], None]]
    top: list[list[list[Any]] | None] = [None]
    for before, id_ in itertools.pairwise(ids[start:]):
        actual.append([float(logp_WW[before, id_]), id_, None])
        order = np.argsort(-logp_WW[before], kind="stable")[:k]
        top.append([[float(logp_WW[before, i]), int(i), None] for i in order])
    meta = {"prompt_tokens": len(ids), "completion_tokens": 0, "cached_tokens": start, "weight_version": "default"}
    return {"text": "", "meta_info": meta | {"input_token_logprobs": actual, "input_top_logprobs": top}}


def chat_answer(request: dict[str, Any]) -> dict[str, Any]:
    """What a chat server answers: yes, to what it was asked, and the seed."""
    words = request["messages"][-1]["content"].split()
    said = ["yes", *words, str(request.get("seed", "greedy"))]
    return {
        "model": request["model"],
        "choices": [{"index": 0, "message": {"role": "assistant", "content": " ".join(said)}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": len(words) + 8, "completion_tokens": len(said)},
    }


RIGHT: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "/v1/completions": vllm_answer,
    "/generate": sglang_answer,
    "/v1/chat/completions": chat_answer,
}


@contextmanager
def serving(app: FaultyServer) -> Iterator[FaultyServer]:
    """Serve on a free port of 127.0.0.1, in a thread."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    app.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    config = uvicorn.Config(app, log_level="critical", lifespan="off", ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield app
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        listening.close()

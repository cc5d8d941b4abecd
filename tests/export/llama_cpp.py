"""llama.cpp's own server in this process, with float32 attention: what differs from transformers is the file."""

from __future__ import annotations

import json
import socket
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xllamacpp


class LlamaCpp:
    """What the tests ask it for."""

    def __init__(self, address: str) -> None:
        self._address = address

    def _asked(self, path: str, **body: Any) -> Any:
        headers = {"Content-Type": "application/json"}
        with urllib.request.urlopen(
            urllib.request.Request(f"{self._address}{path}", json.dumps(body).encode(), headers)
        ) as answer:
            return json.load(answer)

    def ids(self, text: str) -> list[int]:
        """The ids of a text, with those that it adds."""
        found: list[int] = self._asked("/tokenize", content=text, add_special=True, parse_special=True)["tokens"]
        return found

    def greedy(self, ids: Sequence[int], tokens: int, k: int = 5) -> tuple[list[int], list[dict[int, float]]]:
        """The most likely continuation; at each place the k most likely tokens and their log-probabilities, or none."""
        whole, places = list(ids), []
        for _ in range(tokens):  # one by one: of a token that ends inside a character the server gives no scores
            found = self._asked(
                "/completion",
                prompt=whole,
                n_predict=1,
                n_probs=k,
                temperature=0,
                samplers=["temperature"],
                return_tokens=True,
            )
            top = [one for place in found.get("completion_probabilities", ()) for one in place["top_logprobs"]]
            places.append({one["id"]: one["logprob"] for one in top})
            whole += found["tokens"]
        return whole[len(ids) :], places

    def prompt(self, turns: list[dict[str, str]]) -> str:
        """The text of a conversation, by the chat template in the file."""
        return str(self._asked("/apply-template", messages=turns)["prompt"])


@contextmanager
def llama_cpp(file: Path) -> Iterator[LlamaCpp]:
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_ctx, params.n_parallel, params.warmup = 512, 1, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        params.port = probe.getsockname()[1]
    server = xllamacpp.Server(params)
    try:
        yield LlamaCpp(server.listening_address)
    finally:
        del server

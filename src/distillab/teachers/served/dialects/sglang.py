"""SGLang's /generate with return_logprob: a row is one request.

`input_token_logprobs` has the actual token of each position, `input_top_logprobs` the k most likely. Both begin at
`logprob_start_len`, and their first entry is null: the server has no prefix of that token. The values are raw, whatever
the temperature.

Source: SGLang 0.5.23, its documents and source; not run here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from distillab.cache.next_tokens import TopK
from distillab.teachers.served.dialects.dialect import ScoringCall, Wanted
from distillab.teachers.served.errors import WrongAnswer
from distillab.teachers.served.exchange import Call, Reading, Usage, decoded
from distillab.teachers.served.positions import Position, top_k

_Entry = tuple[float | None, int, str | None]


class _Meta(msgspec.Struct):
    prompt_tokens: int
    input_token_logprobs: list[_Entry]
    input_top_logprobs: list[list[_Entry] | None]
    completion_tokens: int = 0
    cached_tokens: int = 0
    weight_version: str | None = None


class _Answer(msgspec.Struct):
    meta_info: _Meta


class SgLang:
    """Scores a row by one request, from the token before its first scored one on."""

    hot: ClassVar[Mapping[str, Any]] = {"sampling_params": {"max_new_tokens": 0, "temperature": 2.0}}

    def calls(self, wanted: Wanted) -> list[ScoringCall]:
        """Return the one request of a row."""
        body = {
            "input_ids": [int(id_) for id_ in wanted.ids],
            "sampling_params": {"max_new_tokens": 0, "temperature": 0},
            "return_logprob": True,
            "logprob_start_len": wanted.scored[0] - 1,
            "top_logprobs_num": wanted.k,
            "return_text_in_logprobs": False,
        }
        return [ScoringCall(Call("/generate", body), lambda content: _read(content, wanted))]


def _read(content: bytes, wanted: Wanted) -> Reading[TopK]:
    meta = decoded(content, _Answer, where=wanted.where).meta_info
    start = wanted.scored[0] - 1
    sent = [int(id_) for id_ in wanted.ids[start:]]
    read = [id_ for _, id_, _ in meta.input_token_logprobs]
    counted = {
        "prompt tokens": (meta.prompt_tokens, len(wanted.ids)),
        "ids": (read, sent),
        "positions": (len(meta.input_top_logprobs), len(sent)),
    }
    facts = [
        f"{name}: the server {str(got)[:120]}, sent {str(due)[:120]}"
        for name, (got, due) in counted.items()
        if got != due
    ]
    if facts:
        raise WrongAnswer(
            "The server scored other tokens than were sent.",
            where=wanted.where,
            facts=facts,
            fix="a server that adds a BOS token, or cuts the row, gives values of another text",
        )
    positions = []
    for place in wanted.scored:
        actual, actual_id, _ = meta.input_token_logprobs[place - start]
        # null has no value: NaN is refused as one
        entries = [(id_, _number(logp)) for logp, id_, _ in meta.input_top_logprobs[place - start] or ()]
        positions.append(
            Position([id_ for id_, _ in entries], [logp for _, logp in entries], actual_id, _number(actual))
        )
    usage = Usage(meta.prompt_tokens, meta.cached_tokens, meta.completion_tokens)
    return Reading(top_k(positions, k=wanted.k, width=wanted.width, where=wanted.where), usage, meta.weight_version)


def _number(logp: float | None) -> float:
    return float("nan") if logp is None else logp

"""vLLM's /v1/completions: with prompt_logprobs a row is scored by one request; ids in and ids out for answers.

`return_token_ids` has the server repeat the ids that it read: an answer to another row is recognised.
`prompt_logprobs: k` gives k entries a position, and one more where the token that follows is not among them. They
are raw log-probabilities, whatever the temperature. k above the server's --max-logprobs is refused by the server.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, TypeVar

import msgspec

from distillab.cache.next_tokens import TopK
from distillab.models.generation import Generated
from distillab.models.rollout import Sampled
from distillab.teachers.protocol import Prompt, Sampling
from distillab.teachers.served.dialects.dialect import AnswerCall, ScoringCall, Wanted
from distillab.teachers.served.dialects.tokens import require_counts, until_stop
from distillab.teachers.served.errors import WrongAnswer
from distillab.teachers.served.exchange import Call, Read, Reading, Usage, decoded
from distillab.teachers.served.positions import Position, top_k

T = TypeVar("T")


class _Entry(msgspec.Struct):
    logprob: float
    rank: int


class _Choice(msgspec.Struct):
    prompt_logprobs: list[dict[int, _Entry] | None]
    prompt_token_ids: list[int] | None = None


class _Drawn(msgspec.Struct):
    token_logprobs: list[float]


class _DrawnChoice(msgspec.Struct):
    logprobs: _Drawn


class _DrawnAnswer(msgspec.Struct):
    choices: list[_DrawnChoice]


class _Written(msgspec.Struct):
    token_ids: list[int]
    finish_reason: Literal["stop", "length"]
    stop_reason: int | str | None = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None


class _About(msgspec.Struct, kw_only=True):
    usage: _Usage
    model: str | None = None
    system_fingerprint: str | None = None


class _Answer(_About, kw_only=True):
    choices: list[_Choice]


class _WrittenAnswer(_About, kw_only=True):
    choices: list[_Written]


class Vllm:
    """Scores a row by one request.

    Args:
        model: the name under which the server has it; None: the server has one model.
    """

    hot: ClassVar[Mapping[str, Any]] = {"temperature": 2.0}

    def __init__(self, model: str | None = None) -> None:
        self._model = model

    def calls(self, wanted: Wanted) -> list[ScoringCall]:
        """Return the one request of a row; max_tokens is 1 because vLLM refuses 0."""
        body: dict[str, Any] = {
            "prompt": [int(id_) for id_ in wanted.ids],
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": wanted.k,
            "return_token_ids": True,
        }
        if self._model is not None:
            body["model"] = self._model
        return [ScoringCall(Call("/v1/completions", body), lambda content: _read(content, wanted))]

    def answer_call(self, prompt: Prompt, sampling: Sampling) -> AnswerCall:
        """Return the request of one answer. What a model's own generation config could change is set."""
        decoding = sampling.decoding
        body: dict[str, Any] = {
            "prompt": list(prompt.ids),
            "max_tokens": decoding.max_new_tokens,
            "temperature": decoding.temperature if decoding.sample else 0,
            "top_p": decoding.top_p,
            "top_k": 0,
            "min_p": 0,
            "repetition_penalty": 1,
            "stop_token_ids": list(sampling.stop_ids),
            "return_token_ids": True,
        }
        if self._model is not None:
            body["model"] = self._model
        if decoding.sample:
            body["seed"] = sampling.seed
        where = f"answer to row {prompt.key}"
        return AnswerCall(
            Call("/v1/completions", body), lambda content: _read_answer(content, prompt, sampling, where=where)
        )

    def drawn_call(self, prompt: Prompt, sampling: Sampling, *, barred: Iterable[int]) -> tuple[Call, Read[Sampled]]:
        """Return the request of one answer with its log-probabilities, which are raw, and how it is read.

        Args:
            barred: ids that are not written.
        """
        asked = self.answer_call(prompt, sampling)
        body = {**asked.call.body, "logprobs": 0, "logit_bias": {str(id_): -100 for id_ in barred}}
        where = f"answer to prompt {prompt.key}"
        return Call(asked.call.path, body), lambda content: _read_drawn(content, prompt, sampling, where=where)


def _read(content: bytes, wanted: Wanted) -> Reading[TopK]:
    answer = decoded(content, _Answer, where=wanted.where)
    counted = {
        "choices": (len(answer.choices), 1),
        "prompt tokens": (answer.usage.prompt_tokens, len(wanted.ids)),
        "positions": (len(answer.choices[0].prompt_logprobs) if answer.choices else 0, len(wanted.ids)),
    }
    require_counts(counted, where=wanted.where)
    read = answer.choices[0].prompt_token_ids
    if read is not None and read != [int(id_) for id_ in wanted.ids]:
        raise WrongAnswer(
            "The server scored other tokens than were sent.",
            where=wanted.where,
            facts=[f"ids: the server {read[:20]}, sent {list(wanted.ids)[:20]}"],
        )
    values = answer.choices[0].prompt_logprobs
    positions = [_position(values[place], int(wanted.ids[place]), place, wanted) for place in wanted.scored]
    return _reading(answer, top_k(positions, k=wanted.k, width=wanted.width, where=wanted.where))


def _read_answer(content: bytes, prompt: Prompt, sampling: Sampling, *, where: str) -> Reading[Generated]:
    answer = decoded(content, _WrittenAnswer, where=where)
    if len(answer.choices) != 1:
        raise WrongAnswer("The server gave another number of answers than one.", where=where)
    written = answer.choices[0]
    require_counts(
        {
            "prompt tokens": (answer.usage.prompt_tokens, len(prompt.ids)),
            "tokens of the answer": (answer.usage.completion_tokens, len(written.token_ids)),
        },
        where=where,
    )
    stop, ended = written.stop_reason, written.finish_reason == "stop"
    stop_id = stop if isinstance(stop, int) else None
    return _reading(answer, until_stop(written.token_ids, sampling, ended=ended, stop_id=stop_id))


def _read_drawn(content: bytes, prompt: Prompt, sampling: Sampling, *, where: str) -> Reading[Sampled]:
    reading = _read_answer(content, prompt, sampling, where=where)
    logp = decoded(content, _DrawnAnswer, where=where).choices[0].logprobs.token_logprobs
    require_counts({"log-probabilities": (len(logp), len(reading.value.scored_ids))}, where=where)
    return Reading(Sampled(reading.value, tuple(logp)), reading.usage, reading.backend)


def _reading(answer: _About, value: T) -> Reading[T]:
    details = answer.usage.prompt_tokens_details
    usage = Usage(
        answer.usage.prompt_tokens,
        (details.cached_tokens or 0) if details is not None else 0,
        answer.usage.completion_tokens,
    )
    names = [name for name in (answer.model, answer.system_fingerprint) if name is not None]
    return Reading(value, usage, "/".join(names) or None)


def _position(entries: dict[int, _Entry] | None, actual_id: int, place: int, wanted: Wanted) -> Position:
    actual = None if entries is None else entries.get(actual_id)
    if entries is None or actual is None:
        raise WrongAnswer(
            "A position of the server's answer lacks the token that follows: the positions are shifted, or dropped.",
            where=f"{wanted.where}, token {place}",
            facts=[f"id {actual_id} is not among {'no entries' if entries is None else sorted(entries)[:20]}"],
            fix="use a server that scores the ids that it was sent",
        )
    # the token that follows is one more entry where it is not among the k most likely, and its rank is higher than k
    kept = {id_: entry.logprob for id_, entry in entries.items() if id_ != actual_id or actual.rank <= wanted.k}
    return Position(list(kept), list(kept.values()), actual_id, actual.logprob)

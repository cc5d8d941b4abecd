"""llama.cpp's /completion, which scores no given text: the tokens are forced, one by one, and its raw softmax is read.

Three forms of request; none changes what is read, the softmax of the unchanged logits:

* a run of text tokens: a grammar that allows these tokens alone, `root ::= <[403]> <[407]>`; one request for all;
* a special token, which a grammar cannot pass: its prefix as prompt, and a bias that forces it;
* a token of an incomplete character, which the server holds back: its prefix, another token that a bias forces, and
  all W entries, among which it is found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import msgspec

from distillab.cache.next_tokens import TopK
from distillab.models.generation import Generated
from distillab.pairing.token_bytes import TokenMeaning
from distillab.teachers.protocol import Prompt, Sampling
from distillab.teachers.served.dialects.dialect import AnswerCall, ScoringCall, Wanted
from distillab.teachers.served.dialects.tokens import require_counts, until_stop
from distillab.teachers.served.errors import WrongAnswer
from distillab.teachers.served.exchange import Call, Reading, Usage, decoded
from distillab.teachers.served.positions import Position, top_k

_FORCED = 1e4  # added to a logit by the sampler: above any difference of two logits
_WRITTEN_FIELDS = ["tokens", "tokens_evaluated", "stop_type", "timings", "model"]
_FIELDS = ["tokens", "completion_probabilities", "tokens_evaluated", "timings", "model"]


class _Entry(msgspec.Struct):
    id: int
    logprob: float


class _Step(msgspec.Struct):
    id: int
    logprob: float
    top_logprobs: list[_Entry]


class _Timings(msgspec.Struct):
    cache_n: int = 0


class _Counted(msgspec.Struct, kw_only=True):
    tokens: list[int]
    tokens_evaluated: int
    timings: _Timings | None = None
    model: str | None = None

    @property
    def usage(self) -> Usage:
        return Usage(self.tokens_evaluated, self.timings.cache_n if self.timings else 0, len(self.tokens))


class _Answer(_Counted, kw_only=True):
    completion_probabilities: list[_Step]


class _Written(_Counted, kw_only=True):
    stop_type: Literal["eos", "limit", "word"]


@dataclass(frozen=True)
class _Part:
    """Tokens start to end of a row, scored by one request; `forced`: what the server must generate."""

    start: int
    forced: tuple[int, ...]
    entries: int


class LlamaCpp:
    """Scores a row by a request for each run of text tokens, and one for each other token.

    Args:
        meanings: of the teacher's ids.
        model: the name that is sent with a request; None: the server has one model.
    Raises:
        ValueError: no id is text.
    """

    hot: ClassVar[Mapping[str, Any]] = {"temperature": 2.0}

    def __init__(self, meanings: Sequence[TokenMeaning], model: str | None = None) -> None:
        self._model = model
        self._special = frozenset(id_ for id_, meaning in enumerate(meanings) if meaning.kind in ("special", "unused"))
        self._incomplete = frozenset(
            id_ for id_, meaning in enumerate(meanings) if id_ not in self._special and not _is_whole(meaning.data)
        )
        text = (id_ for id_, meaning in enumerate(meanings) if meaning.kind == "text" and _is_whole(meaning.data))
        self._any_text = next(text, None)
        if self._any_text is None:
            raise ValueError("a vocabulary without a token of text")

    def calls(self, wanted: Wanted) -> list[ScoringCall]:
        """Return the requests of a row, in the order of its scored tokens."""
        return [
            ScoringCall(self._call(part, wanted), self._reader(part, wanted))
            for part in self._parts(wanted.ids, wanted.scored, wanted)
        ]

    def answer_call(self, prompt: Prompt, sampling: Sampling) -> AnswerCall:
        """Return the request of one answer. What the server's own settings could change is set."""
        decoding = sampling.decoding
        body: dict[str, Any] = {
            "prompt": list(prompt.ids),
            "n_predict": decoding.max_new_tokens,
            "temperature": decoding.temperature if decoding.sample else 0,
            "top_p": decoding.top_p,
            # transformers too divides by the temperature first
            "samplers": ["temperature", "top_p"] if decoding.sample else ["temperature"],
            "return_tokens": True,
            "cache_prompt": False,
            "response_fields": _WRITTEN_FIELDS,
        }
        if decoding.sample:
            body["seed"] = sampling.seed % 2**32
        if self._model is not None:
            body["model"] = self._model
        where = f"answer to row {prompt.key}"

        def read(content: bytes) -> Reading[Generated]:
            answer = decoded(content, _Written, where=where)
            require_counts({"prompt tokens": (answer.tokens_evaluated, len(prompt.ids))}, where=where)
            ended = answer.stop_type != "limit"
            # the model's own end token is the last one
            stop = answer.tokens[-1] if ended and answer.tokens and answer.tokens[-1] in self._special else None
            return Reading(until_stop(answer.tokens, sampling, ended=ended, stop_id=stop), answer.usage, answer.model)

        return AnswerCall(Call("/completion", body), read)

    def _parts(self, ids: Sequence[int], scored: Sequence[int], wanted: Wanted) -> list[_Part]:
        parts: list[_Part] = []
        run: list[int] = []
        for place in scored:
            id_ = int(ids[place])
            plain = id_ not in self._special and id_ not in self._incomplete
            if run and not (plain and place == run[-1] + 1):
                parts.append(_Part(run[0], tuple(int(ids[at]) for at in run), wanted.k))
                run = []
            if plain:
                run.append(place)
            elif id_ in self._special:
                parts.append(_Part(place, (id_,), wanted.k))
            else:
                assert self._any_text is not None
                parts.append(_Part(place, (self._any_text,), wanted.width))
        if run:
            parts.append(_Part(run[0], tuple(int(ids[at]) for at in run), wanted.k))
        return parts

    def _call(self, part: _Part, wanted: Wanted) -> Call:
        actual = int(wanted.ids[part.start])
        by_grammar = actual not in self._special and actual not in self._incomplete
        body: dict[str, Any] = {
            "prompt": [int(id_) for id_ in wanted.ids[: part.start]],
            "n_predict": len(part.forced),
            "n_probs": part.entries,
            "temperature": 0,
            "samplers": ["temperature"],
            "return_tokens": True,
            "cache_prompt": False,
            "response_fields": _FIELDS,
        }
        if self._model is not None:
            body["model"] = self._model
        if by_grammar:
            body["grammar"] = "root ::= " + " ".join(f"<[{id_}]>" for id_ in part.forced)
        else:
            body["logit_bias"] = [[part.forced[0], _FORCED]]
        return Call("/completion", body)

    def _reader(self, part: _Part, wanted: Wanted) -> Callable[[bytes], Reading[TopK]]:
        def read(content: bytes) -> Reading[TopK]:
            answer = decoded(content, _Answer, where=wanted.where)
            _require_forced(answer, part, wanted)
            positions = []
            for at, step in enumerate(answer.completion_probabilities):
                actual = int(wanted.ids[part.start + at])
                entries = {entry.id: entry.logprob for entry in step.top_logprobs}
                if len(entries) != len(step.top_logprobs):
                    raise WrongAnswer("A position of the server's answer has an id twice.", where=wanted.where)
                value = step.logprob
                if part.forced[at] != actual:
                    value = entries.get(actual, float("nan"))
                    best = sorted(entries, key=lambda id_: -entries[id_])[: wanted.k]
                    entries = {id_: entries[id_] for id_ in best}
                positions.append(Position(list(entries), list(entries.values()), actual, value))
            scored = top_k(positions, k=wanted.k, width=wanted.width, where=wanted.where)
            return Reading(scored, answer.usage, answer.model)

        return read


def _require_forced(answer: _Answer, part: _Part, wanted: Wanted) -> None:
    got = tuple(step.id for step in answer.completion_probabilities)
    if got != part.forced or tuple(answer.tokens) != part.forced or answer.tokens_evaluated != part.start:
        raise WrongAnswer(
            "The server did not generate the tokens that it was made to.",
            where=f"{wanted.where}, tokens {part.start} to {part.start + len(part.forced)}",
            facts=[
                f"wanted {list(part.forced)[:20]} after {part.start} tokens",
                f"got {list(got)[:20]} after {answer.tokens_evaluated} tokens",
            ],
            fix="a server that adds a BOS token, ignores grammars, or has another tokenizer cannot score these rows",
        )


def _is_whole(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True

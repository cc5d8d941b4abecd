"""OpenAI's /v1/chat/completions: text alone. The server's template and tokens are unknown, so nothing is scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from distillab.teachers.served.errors import WrongAnswer
from distillab.teachers.served.exchange import Call, Reading, Usage, decoded

Finish = Literal["stop", "length", "content_filter"]


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str
    index: int = 0


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _PromptDetails | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice]
    usage: _Usage | None = None
    model: str | None = None
    system_fingerprint: str | None = None


@dataclass(frozen=True)
class ChatAnswer:
    """An answer of a chat server.

    Attributes:
        text: without the reasoning. May be empty.
        reasoning: that the server gave in a field of its own; "" if none.
        finish: "stop"; "length", cut at max_tokens; "content_filter", refused or filtered by the server.
    """

    text: str
    reasoning: str
    finish: Finish


@dataclass(frozen=True)
class OpenAiChat:
    """Asks for answers to conversations.

    Attributes:
        model: the name under which the server has it.
    """

    model: str

    def call(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        max_tokens: int,
        temperature: float,
        top_p: float,
        seed: int | None,
        number: int = 0,
    ) -> Call:
        """Return the request of one answer. Greedy: temperature 0.

        Args:
            messages: role and content of each.
            number: of this answer, of several to one conversation. It is in the stored answer's key through `seed`:
                seeds of two answers must differ.
        """
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [dict(message) for message in messages],
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_p": top_p,
        }
        if seed is not None:
            body["seed"] = seed + number
        return Call("/v1/chat/completions", body)

    def read(self, content: bytes) -> Reading[ChatAnswer]:
        """Return the one answer.

        Raises:
            CutAnswer, WrongAnswer: it is not whole, or is no answer.
        """
        where = f"chat answer of {self.model}"
        answer = decoded(content, _Answer, where=where)
        if len(answer.choices) != 1:
            raise WrongAnswer(
                "The server gave another number of answers than one.",
                where=where,
                facts=[f"answers: {len(answer.choices)}"],
            )
        message, finish = answer.choices[0].message, answer.choices[0].finish_reason
        if finish not in ("stop", "length", "content_filter"):
            raise WrongAnswer(
                "An answer ended for a reason that is not known.",
                where=where,
                facts=[f"finish_reason: {finish}", "known: stop, length, content_filter"],
                fix="a server that calls tools gives no text to learn from",
            )
        known: Finish = "content_filter" if message.refusal else finish  # type: ignore[assignment]
        counted = answer.usage
        details = counted.prompt_tokens_details if counted else None
        usage = Usage(
            counted.prompt_tokens if counted else 0,
            (details.cached_tokens or 0) if details else 0,
            counted.completion_tokens if counted else 0,
        )
        names = [name for name in (answer.model, answer.system_fingerprint) if name]
        value = ChatAnswer(message.content or "", message.reasoning_content or message.reasoning or "", known)
        return Reading(value, usage, "/".join(names) or None)

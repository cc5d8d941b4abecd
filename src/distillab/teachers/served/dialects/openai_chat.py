"""OpenAI's /v1/chat/completions: text alone. The server's template and tokens are unknown, so nothing is scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from distillab.errors import ConfigError
from distillab.models.generation import GeneratedText
from distillab.teachers.protocol import Prompt, Sampling
from distillab.teachers.served.dialects.dialect import AnswerCall
from distillab.teachers.served.errors import WrongAnswer
from distillab.teachers.served.exchange import Call, Reading, Usage, decoded

_FINISHES: Mapping[str, Literal["stop", "length", "filtered"]] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "filtered",
}


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
class OpenAiChat:
    """Asks for answers to conversations.

    Attributes:
        model: the name under which the server has it.
        fields: further ones of the requests; None leaves one out.
    """

    model: str
    fields: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)

    def answer_call(self, prompt: Prompt, sampling: Sampling) -> AnswerCall:
        """Return the request of one answer to the prompt's turns. Greedy: temperature 0, and no seed.

        Raises:
            ConfigError: the prompt is no conversation of texts.
        """
        if not prompt.turns:
            raise ConfigError(
                "A chat server answers conversations, and a row is none, or calls tools.",
                where=f"row {prompt.key}",
                fix="use rows with a prompt or with messages, without tools; or a server that continues tokens",
            )
        decoding = sampling.decoding
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": role, "content": text} for role, text in prompt.turns],
            "max_tokens": decoding.max_new_tokens,
            "temperature": decoding.temperature if decoding.sample else 0,
            "top_p": decoding.top_p,
        }
        if decoding.sample:
            body["seed"] = sampling.seed
        body = {name: value for name, value in (body | dict(self.fields)).items() if value is not None}
        return AnswerCall(Call("/v1/chat/completions", body), self.read)

    def read(self, content: bytes) -> Reading[GeneratedText]:
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
        message, reason = answer.choices[0].message, answer.choices[0].finish_reason
        finish = "filtered" if message.refusal else _FINISHES.get(reason)
        if finish is None:
            raise WrongAnswer(
                "An answer ended for a reason that is not known.",
                where=where,
                facts=[f"finish_reason: {reason}", f"known: {', '.join(_FINISHES)}"],
                fix="a server that calls tools gives no text to learn from",
            )
        counted = answer.usage
        details = counted.prompt_tokens_details if counted else None
        usage = Usage(
            counted.prompt_tokens if counted else 0,
            (details.cached_tokens or 0) if details else 0,
            counted.completion_tokens if counted else 0,
        )
        names = [name for name in (answer.model, answer.system_fingerprint) if name]
        value = GeneratedText(message.content or "", message.reasoning_content or message.reasoning or "", finish)
        return Reading(value, usage, "/".join(names) or None)

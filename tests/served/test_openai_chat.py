"""Answers of a chat server: llama.cpp's own, and recorded forms of others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distillab.config.served import ServerConfig
from distillab.errors import ConfigError
from distillab.models.generation import Decoding, GeneratedText
from distillab.teachers.protocol import Prompt, Sampling
from distillab.teachers.served.client import Client
from distillab.teachers.served.dialects.openai_chat import OpenAiChat
from distillab.teachers.served.errors import CutAnswer, WrongAnswer
from distillab.teachers.served.journal import AnswerJournal

CHAT = OpenAiChat("small")
PROMPT = Prompt("1", (1, 2), (("user", "Tell me a story of a dog."),))


def answer(message: dict[str, Any], finish: str = "stop", **more: Any) -> bytes:
    return json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": finish}], **more}).encode()


def test_a_real_server_answers(llama_server: str, tmp_path: Path) -> None:
    journal = AnswerJournal(tmp_path)
    client = Client(ServerConfig(url=llama_server, dialect="openai_chat", model="small"), journal, tokenizer="")
    asked = CHAT.answer_call(PROMPT, Sampling(Decoding(12), (2,), seed=1))
    first = client.ask(asked.call, CHAT.read)
    assert "seed" not in asked.call.body
    assert first.text and first.finish == "length"
    assert client.counts.usage.completion == 12 and client.counts.usage.prompt > 5
    assert client.ask(asked.call, CHAT.read) == first and client.counts.asked == 1
    drawn = CHAT.answer_call(PROMPT, Sampling(Decoding(12, True, 1.0, 1.0), (2,), seed=2))
    assert client.ask(drawn.call, CHAT.read).text != first.text and client.counts.asked == 2
    client.close()
    journal.close()


def test_reasoning_is_kept_apart_and_tokens_are_the_server_s() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 5}}
    message = {"content": "4", "reasoning_content": "2 + 2"}
    reading = CHAT.read(answer(message, usage=usage, model="m", system_fingerprint="f"))
    assert reading.value == GeneratedText("4", "2 + 2", "stop")
    assert (reading.usage.prompt, reading.usage.cached, reading.usage.completion) == (9, 5, 4)
    assert reading.backend == "m/f"


@pytest.mark.parametrize(
    ("message", "finish", "wanted"),
    [
        ({"content": "cut o"}, "length", GeneratedText("cut o", "", "length")),
        ({"content": ""}, "stop", GeneratedText("", "", "stop")),
        ({"content": None}, "content_filter", GeneratedText("", "", "filtered")),
        ({"content": None, "refusal": "I cannot."}, "stop", GeneratedText("", "", "filtered")),
    ],
)
def test_how_an_answer_ended_is_kept(message: dict[str, Any], finish: str, wanted: GeneratedText) -> None:
    assert CHAT.read(answer(message, finish)).value == wanted


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (answer({"content": None, "tool_calls": []}, "tool_calls"), WrongAnswer),
        (b'{"choices": []}', WrongAnswer),
        (b'{"error": {"message": "no"}}', WrongAnswer),
        (answer({"content": ["a"]}), WrongAnswer),
        (answer({"content": "whole"})[:-9], CutAnswer),
    ],
)
def test_what_is_no_answer_is_refused(content: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        CHAT.read(content)


def test_fields_are_added_and_left_out() -> None:
    chat = OpenAiChat("o", {"max_tokens": None, "max_completion_tokens": 12, "temperature": None})
    body = chat.answer_call(PROMPT, Sampling(Decoding(12), (2,), seed=1)).call.body
    assert body == {
        "model": "o",
        "messages": [{"role": "user", "content": "Tell me a story of a dog."}],
        "top_p": 1.0,
        "max_completion_tokens": 12,
    }


def test_a_row_that_is_no_conversation_is_refused() -> None:
    with pytest.raises(ConfigError, match="answers conversations"):
        CHAT.answer_call(Prompt("1", (1, 2)), Sampling(Decoding(12), (2,), seed=1))

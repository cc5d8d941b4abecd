"""Answers of a chat server: llama.cpp's own, and recorded forms of others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distillab.config.served import ServerConfig
from distillab.teachers.served.client import Client
from distillab.teachers.served.dialects.openai_chat import ChatAnswer, OpenAiChat
from distillab.teachers.served.errors import CutAnswer, WrongAnswer
from distillab.teachers.served.journal import AnswerJournal

CHAT = OpenAiChat("small")
MESSAGES = [{"role": "user", "content": "Tell me a story of a dog."}]


def answer(message: dict[str, Any], finish: str = "stop", **more: Any) -> bytes:
    return json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": finish}], **more}).encode()


def test_a_real_server_answers(llama_server: str, tmp_path: Path) -> None:
    journal = AnswerJournal(tmp_path)
    client = Client(ServerConfig(url=llama_server, dialect="openai_chat", model="small"), journal, tokenizer="")
    call = CHAT.call(MESSAGES, max_tokens=12, temperature=0, top_p=1, seed=1)
    first = client.ask(call, CHAT.read)
    assert first.text and first.finish == "length"
    assert client.counts.usage.completion == 12 and client.counts.usage.prompt > 5
    assert client.ask(call, CHAT.read) == first and client.counts.asked == 1
    other = client.ask(CHAT.call(MESSAGES, max_tokens=12, temperature=1, top_p=1, seed=1, number=1), CHAT.read)
    assert other.text != first.text and client.counts.asked == 2
    client.close()
    journal.close()


def test_reasoning_is_kept_apart_and_tokens_are_the_server_s() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 5}}
    message = {"content": "4", "reasoning_content": "2 + 2"}
    reading = CHAT.read(answer(message, usage=usage, model="m", system_fingerprint="f"))
    assert reading.value == ChatAnswer("4", "2 + 2", "stop")
    assert (reading.usage.prompt, reading.usage.cached, reading.usage.completion) == (9, 5, 4)
    assert reading.backend == "m/f"


@pytest.mark.parametrize(
    ("message", "finish", "wanted"),
    [
        ({"content": "cut o"}, "length", ChatAnswer("cut o", "", "length")),
        ({"content": ""}, "stop", ChatAnswer("", "", "stop")),
        ({"content": None}, "content_filter", ChatAnswer("", "", "content_filter")),
        ({"content": None, "refusal": "I cannot."}, "stop", ChatAnswer("", "", "content_filter")),
    ],
)
def test_how_an_answer_ended_is_kept(message: dict[str, Any], finish: str, wanted: ChatAnswer) -> None:
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

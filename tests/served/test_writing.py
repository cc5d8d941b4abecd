"""Answers of a server in a store: how they ended, what they cost, and where it stops."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from distillab.cache.reader import CacheReader
from distillab.cache.text import Text
from distillab.config.served import ServerConfig
from distillab.config.teacher import TeacherAnswersConfig
from distillab.models.generation import Decoding, Generated, GeneratedText
from distillab.records import ServedCost, total_cost
from distillab.teachers.protocol import Prompt, Sampling
from distillab.teachers.reasoning import AnswerText
from distillab.teachers.served.client import Client
from distillab.teachers.served.cost import Account, served_cost
from distillab.teachers.served.dialects.openai_chat import OpenAiChat
from distillab.teachers.served.dialects.vllm import Vllm
from distillab.teachers.served.errors import RowFailed, ServerError
from distillab.teachers.served.exchange import Paid, Usage
from distillab.teachers.served.journal import AnswerJournal, paid_in
from distillab.teachers.served.teacher import served_identity
from distillab.teachers.served.writing import ServedWriter
from distillab.teachers.stored.answer_rows import AnswerRows
from distillab.teachers.stored.answers import drop_invalid
from tests.served import asks
from tests.served.faulty_server import FaultyServer, Instead, Status, serving, table

GREEDY = Sampling(Decoding(8), (2,), seed=0)
PRICES = {"prompt": 1e6, "cached": 0, "completion": 1e6}


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with serving(FaultyServer(paths=("/v1/completions", "/v1/chat/completions"))) as app:
        yield app


def prompts(count: int) -> list[Prompt]:
    return [Prompt(f"row {n}", (5, 6, 7), (("user", f"question {n}"),)) for n in range(count)]


def writer(server: FaultyServer, folder: Path, *, dialect: Any = None, **settings: Any) -> ServedWriter:
    config = ServerConfig(**{"url": server.url, "dialect": "openai_chat", "model": "m", "concurrency": 1, **settings})
    identity = served_identity(config, "text", width=48, name="chat", template_sha256="", probe=None)
    return ServedWriter(Client(config, AnswerJournal(folder), tokenizer=""), dialect or OpenAiChat("m"), identity)


def chat(content: str | None, finish: str = "stop", **message: Any) -> Instead:
    choice = {"index": 0, "message": {"content": content, **message}, "finish_reason": finish}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}
    return Instead({"model": "m", "choices": [choice], "usage": usage})


def test_how_every_answer_ended_is_counted(
    server: FaultyServer, tmp_path: Path, tiny_world: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    given = [
        chat("The sky is blue."),
        chat("The sky is", "length"),
        chat(None, "content_filter"),
        chat(None, refusal="I cannot."),
        chat(""),
        chat("Four.", reasoning_content="Two and two."),
        chat(None, "length", reasoning_content="Two and"),
        chat("<think>So</think>Five."),
        Status(400, b'{"error": "too long"}'),
        Status(413),
    ]
    server.script = [each if isinstance(each, Status) else lambda _, each=each: each for each in given]
    settings = TeacherAnswersConfig(reasoning="strip")
    asked = prompts(len(given))
    source = writer(server, tmp_path, prices=PRICES)
    source.announce([(3, 8)] * len(asked))
    rows = AnswerRows(
        AutoTokenizer.from_pretrained(tiny_world["teacher"]["path"]),
        AnswerText(AutoTokenizer.from_pretrained(tiny_world["teacher"]["path"]), settings),
        (2,),
    )
    answers = [*source.answers(asked[:8], GREEDY), *source.answers(asked[8:], GREEDY)]
    made = [rows.row(prompt, 0, got) for prompt, got in zip(asked, answers, strict=True)]
    texts = [row.sections["text"] for row in made]
    assert [(text.answer, text.finish) for text in texts if isinstance(text, Text)] == [
        ("The sky is blue.", "stop"),
        ("The sky is", "length"),
        *[("", "filtered")] * 2,
        ("", "stop"),
        ("Four.", "stop"),
        ("", "length"),
        ("Five.", "stop"),
        *[("", "refused")] * 2,
    ]
    read = [rows.answer(row, prompt, 0, where="") for row, prompt in zip(made, asked, strict=True)]
    kept, counts = drop_invalid(read, path="p", settings=settings, prompt_tokens=0)
    assert [answer for each in kept.values() for answer in each] == ["The sky is blue.", "Four.", "Five."]
    dropped = {name: value for name, value in counts if name.startswith("dropped") and value}
    assert dropped == {
        "dropped_empty": 1,
        "dropped_cut_off": 1,
        "dropped_filtered": 2,
        "dropped_refused": 2,
        "dropped_unfinished_reasoning": 1,
    }
    assert counts.generated == counts.kept + sum(dropped.values()) and counts.with_reasoning == 3
    # eight answers of (10 - 4) + 5 tokens, and 10 prompts of 3 tokens by our count
    assert served_cost(paid_in(tmp_path), source._client.server.prices).money == 88  # type: ignore[union-attr]
    err = capsys.readouterr().err
    assert "10 answers, about 30 tokens read, at most 80 generated, 110 by teacher.server.prices" in err
    assert "10 answers, by the first 8: 100 tokens read, 50 generated" in err


def test_reasoning_given_apart_is_kept_between_the_markers(tiny_world: dict[str, Any]) -> None:
    text = AnswerText(AutoTokenizer.from_pretrained(tiny_world["teacher"]["path"]), TeacherAnswersConfig())
    whole = text.whole(GeneratedText("4.", "Two and two.", "stop"))
    assert whole == "<think>\nTwo and two.\n</think>\n\n4." and text.read_text(whole).answer == whole
    assert text.read_text(text.whole(GeneratedText("", "Two", "length"))).unfinished


def test_a_server_that_refuses_many_prompts_stops_the_run(server: FaultyServer, tmp_path: Path) -> None:
    server.script = [Status(400, b"unsupported parameter: max_tokens")] * 9
    with pytest.raises(ServerError, match="refuses too many") as caught:
        list(writer(server, tmp_path).answers(prompts(60), GREEDY))
    assert "refused: 3 of 3" in str(caught.value) and "unsupported parameter" in str(caught.value)
    assert len(server.asked) < 9


def test_a_server_that_gives_up_on_a_row_stops_the_run(server: FaultyServer, tmp_path: Path) -> None:
    server.script = [lambda answer: None, Status(500)]
    with pytest.raises(RowFailed, match="no usable answer"):
        list(writer(server, tmp_path, tries=1).answers(prompts(3), GREEDY))


def test_every_drawn_answer_has_its_own_seed_and_greedy_ones_have_none(server: FaultyServer, tmp_path: Path) -> None:
    twice = [prompts(1)[0]] * 4
    drawn = Sampling(Decoding(8, True, 0.7, 0.9), (2,), seed=40)
    texts = [got.text for got in writer(server, tmp_path / "a").answers(twice, drawn) if isinstance(got, GeneratedText)]
    assert texts == [f"yes question 0 {seed}" for seed in range(40, 44)]
    server.asked.clear()
    assert len({repr(got) for got in writer(server, tmp_path / "b").answers(twice, GREEDY)}) == 1
    (body,) = server.asked
    assert "seed" not in body and body["temperature"] == 0 and body["messages"][0]["content"] == "question 0"


@pytest.mark.parametrize("with_stop", [True, False])
def test_vllm_answers_with_tokens(server: FaultyServer, tmp_path: Path, with_stop: bool) -> None:
    """The stop token may be the last of them or be left out."""
    ids = [9]
    while len(ids) < 9:
        ids.append(int(table()[ids[-1]].argmax()))
    stop = ids[4]
    source = writer(server, tmp_path, dialect=Vllm("table"))
    sampling = Sampling(Decoding(8), (stop,), seed=0)
    if not with_stop:

        def without(answer: dict[str, Any]) -> None:
            answer["choices"][0]["token_ids"].pop()
            answer["usage"]["completion_tokens"] -= 1

        server.always = without
    (got,) = source.answers([Prompt("1", (9,))], sampling)
    assert got == Generated(tuple(ids[1 : ids.index(stop)]), stop)
    assert server.asked[0]["stop_token_ids"] == [stop] and server.asked[0]["repetition_penalty"] == 1
    server.always = lambda answer: answer["usage"].update(prompt_tokens=2)
    with pytest.raises(RowFailed, match="another number of tokens"):
        list(source.answers([Prompt("2", (9, 9, 9))], sampling))


def test_max_cost_stops_before_it_is_passed_and_a_higher_one_goes_on(
    server: FaultyServer, tmp_path: Path, tiny_world: dict[str, Any]
) -> None:
    """An answer is 10 tokens read and 4 generated; they cost 1 each."""
    folder, tokenizer, limits = tmp_path / "store", tiny_world["teacher"]["path"], {"prices": PRICES}
    each = 14.0
    for allowed in (10, 35):
        with pytest.raises(ServerError, match="max_cost") as caught:
            asks.written(server.url, folder, tokenizer, **limits, max_cost=each * allowed + 1)
        assert "what was paid for is stored" in str(caught.value)
        assert paid_in(folder / "served").requests == len(server.asked) == allowed
    # exactly enough
    whole = asks.written(server.url, folder, tokenizer, **limits, max_cost=each * asks.ROWS)
    assert len(server.asked) == asks.ROWS and CacheReader(folder).complete
    assert whole == asks.written(server.url, tmp_path / "again", tokenizer)


def test_a_limit_needs_a_server_that_counts(server: FaultyServer, tmp_path: Path) -> None:
    server.always = lambda answer: answer.pop("usage") and None
    with pytest.raises(ServerError, match="does not count its tokens"):
        list(writer(server, tmp_path, prices=PRICES, max_cost=5).answers(prompts(9), GREEDY))
    assert len(server.asked) < 9


def test_an_account_counts_a_journal_once(tmp_path: Path) -> None:
    journal = AnswerJournal(tmp_path)
    journal.store_answer(b"k" * 16, b"{}", Paid(Usage(7, 2, 3), 1, 0.5))
    journal.close()
    account = Account(ServerConfig(url="http://h"))
    account.include(tmp_path)
    account.include(tmp_path)
    assert account.paid == Paid(Usage(7, 2, 3), 1, 0.5)


def test_costs_add_up() -> None:
    one = ServedCost(requests=1, prompt_tokens=2, cached_tokens=1, completion_tokens=3, seconds=0.5, money=0.25)
    assert total_cost([None, one, one]) == ServedCost(
        requests=2, prompt_tokens=4, cached_tokens=2, completion_tokens=6, seconds=1.0, money=0.5
    )
    assert total_cost([None]) is None
    without = total_cost([one, one.model_copy(update={"money": None})])
    assert without is not None and without.money is None

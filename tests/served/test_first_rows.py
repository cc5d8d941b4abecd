"""A server whose values are well-formed and of another model: the first rows show it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from distillab.cache.next_tokens import TopK
from distillab.config.served import ServerConfig
from distillab.data.encoding import EncodedRow
from distillab.pairing.token_bytes import token_meanings
from distillab.runs.first_rows import ROWS, FirstRows
from distillab.teachers.served.client import Client
from distillab.teachers.served.dialects.dialect import Wanted
from distillab.teachers.served.dialects.llama_cpp import LlamaCpp
from distillab.teachers.served.journal import AnswerJournal
from distillab.teachers.served.scoring import score_rows
from tests.cli.conftest import call, write_recipe
from tests.doctor.pair_samples import texts
from tests.served.conftest import SmallMistral, llama_cpp

TOP_K = [{"kind": "top_k_divergence", "k": 16}]


def row(number: int) -> EncodedRow:
    """Three scored tokens, of which two are the same in all rows."""
    mask = np.array([False, True, True, True])
    return EncodedRow(
        key=str(number), input_ids=np.array([number, 1, 2, 3 + number % 5]), answer_mask=mask, prompt_length=1
    )


def given(nats: float) -> TopK:
    """Values of three positions."""
    values = np.full(3, -nats / 3, dtype=np.float32)
    return TopK(np.zeros((3, 1), np.int32), values[:, None], values, values)


def warnings(nats: list[float], rows: int = 40) -> list[str]:
    """What is said of a server that gives the first rows so many nats each."""
    found: list[str] = []
    every = [row(number) for number in range(rows)]
    check = FirstRows(every, vocabulary=64, where="http://here", note=found.append)
    for number, each in enumerate(nats):
        check([Wanted(every[number].input_ids.tolist(), (1, 2, 3), 1, 64, "")], [given(each)])
    return found


def test_it_is_judged_with_the_eighth_row_against_the_unigram_model_of_the_others() -> None:
    assert warnings([20.0] * (ROWS - 1)) == [] and warnings([3.0] * 20) == []
    (said,) = warnings([20.0] * 20)
    # 32 other rows: ids 1 and 2 are counted 32 times, the five last ones 6 or 7 times
    beside = [sum(other % 5 == number % 5 for other in range(ROWS, 40)) for number in range(ROWS)]
    counted = [np.log(96 + 64) - np.log([33, 33, 1 + times]) for times in beside]
    assert f"6.67 nats per token, unigram model {np.mean(counted):.2f} (log V 4.16), over 24 tokens" in said


def test_differences_within_the_error_are_no_finding() -> None:
    lines = [3.0, 14.0] * 4
    assert warnings(lines) == [] and len(warnings([one + 10 for one in lines])) == 1


def test_values_of_the_tokens_beside_theirs_are_told_on_a_real_server(
    llama_server: str, small_mistral: SmallMistral, materials: Path, tmp_path: Path
) -> None:
    rows = []
    for number, text in enumerate(texts(materials)):
        ids = np.array(small_mistral.tokenizer(text).input_ids[:60], dtype=np.int32)
        rows.append(EncodedRow(str(number), ids, np.arange(len(ids)) > 0, prompt_length=1))
    asked = [Wanted(one.input_ids.tolist(), range(1, len(one)), 4, 32_000, one.key) for one in rows[:ROWS]]
    journal = AnswerJournal(tmp_path)
    client = Client(ServerConfig(url=llama_server, dialect="llama_cpp", k=4), journal, tokenizer="small mistral")
    with closing(journal), closing(client):
        dialect = LlamaCpp(token_meanings(small_mistral.tokenizer))
        given = {wanted.where: got for wanted, got in score_rows(client, dialect, asked)}
    values = [got for wanted in asked if isinstance(got := given[wanted.where], TopK)]
    assert len(values) == ROWS
    for moved, expected in ((0, []), (1, ["read 1 later"]), (-2, ["read 2 earlier"])):
        said: list[str] = []
        check = FirstRows(rows, vocabulary=32_000, where=llama_server, note=said.append)
        check(asked, [replace(one, actual_logp=np.roll(one.actual_logp, moved)) for one in values])
        assert [words in one for words, one in zip(expected, said, strict=True)] == [True] * len(expected), said


@pytest.fixture(scope="module")
def other(materials: Path, tiny_world: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of the tiny world's teacher, its weights eight times as large: sure of nonsense."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("other")
    source = tiny_world["teacher"]["path"]
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(8.0)
    model.save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(source).save_pretrained(folder / "model")
    with llama_cpp(folder / "model", folder) as url:
        yield url


def test_a_build_and_a_run_with_another_model_warn_with_both_numbers(
    other: str, tiny_world: dict[str, Any], tmp_path: Path
) -> None:
    teacher = {"path": tiny_world["teacher"]["path"], "server": {"url": other, "dialect": "llama_cpp"}}
    recipe = write_recipe(tmp_path, tiny_world, teacher=teacher, method="logits", terms=TOP_K)
    code, _, err = call("cache", "build", recipe)
    assert code == 0 and "WARNING: the teacher behind" in err and "unigram model" in err, err
    code, _, err = call("train", recipe)
    assert code == 0 and "WARNING: the teacher behind" in err
    (note,) = (one for one in json.loads((tmp_path / "run" / "run.json").read_text())["notes"] if "unigram" in one)
    assert "is it the model of teacher.path" in note

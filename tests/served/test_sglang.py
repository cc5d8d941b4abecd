"""SGLang's form: a recorded answer of the documented form, and the table in that form. Not run on SGLang itself."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from distillab.teachers.served.dialects.dialect import Wanted
from distillab.teachers.served.dialects.sglang import SgLang
from distillab.teachers.served.errors import WrongAnswer
from tests.served.faulty_server import W, sglang_answer, table

# The form of SGLang 0.5.23; two scored tokens of a row of four, from the second token on.
RECORDED: dict[str, Any] = {
    "text": "",
    "output_ids": [],
    "meta_info": {
        "id": "6f1b5e0c2d7a4a6f8f0e",
        "finish_reason": {"type": "length", "length": 0},
        "prompt_tokens": 4,
        "weight_version": "default",
        "input_token_logprobs": [[None, 450, None], [-1.25, 7483, None], [-4.5, 310, None]],
        "output_token_logprobs": [],
        "input_top_logprobs": [
            None,
            [[-0.75, 1900, None], [-1.25, 7483, None], [-2.5, 937, None]],
            [[-0.25, 338, None], [-2.0, 471, None], [-3.0, 29892, None]],
        ],
        "output_top_logprobs": [],
        "completion_tokens": 0,
        "cached_tokens": 1,
        "e2e_latency": 0.0123,
    },
}
WANTED = Wanted([1, 450, 7483, 310], (2, 3), 3, 32_000, "row 1")


def read(answer: dict[str, Any]) -> Any:
    (call,) = SgLang().calls(WANTED)
    return call.read(json.dumps(answer).encode())


def test_the_request_scores_from_the_token_before_the_first() -> None:
    (call,) = SgLang().calls(WANTED)
    assert call.call.path == "/generate"
    assert call.call.body == {
        "input_ids": [1, 450, 7483, 310],
        "sampling_params": {"max_new_tokens": 0, "temperature": 0},
        "return_logprob": True,
        "logprob_start_len": 1,
        "top_logprobs_num": 3,
        "return_text_in_logprobs": False,
    }


def test_a_recorded_answer_is_read() -> None:
    reading = read(RECORDED)
    assert reading.value.ids.tolist() == [[1900, 7483, 937], [338, 471, 29892]]
    np.testing.assert_allclose(reading.value.logp, [[-0.75, -1.25, -2.5], [-0.25, -2.0, -3.0]])
    np.testing.assert_allclose(reading.value.actual_logp, [-1.25, -4.5])
    rest = 1 - np.exp([[-0.75, -1.25, -2.5], [-0.25, -2.0, -3.0]]).sum(axis=1)
    np.testing.assert_allclose(np.exp(reading.value.tail_logmass), rest, atol=1e-6)
    assert (reading.usage.prompt, reading.usage.cached, reading.usage.completion) == (4, 1, 0)
    assert reading.backend == "default"


def test_the_table_in_this_form_is_the_table() -> None:
    wanted = Wanted([1, 7, 3, 30, 22], (2, 3, 4), W, W, "row")
    (call,) = SgLang().calls(wanted)
    got = call.read(json.dumps(sglang_answer(dict(call.call.body))).encode()).value
    np.testing.assert_allclose(got.actual_logp, table()[[7, 3, 30], [3, 30, 22]], atol=1e-6)


def _of_meta(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    return lambda answer: change(answer["meta_info"])


FAULTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "no meta_info": lambda answer: answer.pop("meta_info"),
    "no top log-probabilities": _of_meta(lambda meta: meta.pop("input_top_logprobs")),
    "a BOS token added": _of_meta(lambda meta: meta.update(prompt_tokens=5)),
    "a position less": _of_meta(lambda meta: meta["input_token_logprobs"].pop(0)),
    "other ids": _of_meta(lambda meta: meta["input_token_logprobs"].reverse()),
    "a position less of the most likely": _of_meta(lambda meta: meta["input_top_logprobs"].pop()),
    "positions shifted": _of_meta(lambda meta: meta["input_top_logprobs"].reverse()),
    "k clipped": _of_meta(lambda meta: meta["input_top_logprobs"][1].pop()),
    "null for the actual token": _of_meta(lambda meta: meta["input_token_logprobs"][2].__setitem__(0, None)),
    "null for an entry": _of_meta(lambda meta: meta["input_top_logprobs"][2][0].__setitem__(0, None)),
    "a text for an id": _of_meta(lambda meta: meta["input_top_logprobs"][2][0].__setitem__(1, " the")),
    "two values of one token": _of_meta(lambda meta: meta["input_token_logprobs"][1].__setitem__(0, -0.5)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_another_form_is_refused(fault: str) -> None:
    answer = copy.deepcopy(RECORDED)
    FAULTS[fault](answer)
    with pytest.raises(WrongAnswer):
        read(answer)

"""A server that writes the student's answers: what is asked of it, and what is refused. vLLM itself: prove_vllm.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distillab.config.on_policy import ServedSamplerConfig
from distillab.config.served import ServerConfig
from distillab.models.generation import Decoding
from distillab.models.rollout import Sampled
from distillab.teachers.protocol import Prompt, Sampling
from distillab.teachers.served.dialects.vllm import Vllm
from distillab.teachers.served.errors import ServerError, WrongAnswer
from distillab.training.served_sampler import ServedSampler
from tests.served.conftest import SmallMistral

ANSWER = """{"model": "m", "usage": {"prompt_tokens": 2, "completion_tokens": 3}, "choices": [{"token_ids": [7, 8, 2],
"finish_reason": "stop", "stop_reason": 2, "logprobs": {"token_logprobs": [%s]}}]}"""
SAMPLING = Sampling(Decoding(16, True, 0.5), (2,), seed=3)


def test_a_server_that_takes_no_weights_is_refused_with_what_to_start(
    llama_server: str, small_mistral: SmallMistral, tmp_path: Path
) -> None:
    settings = ServedSamplerConfig(server=ServerConfig(url=llama_server, tries=1), folder=str(tmp_path))
    sampler = ServedSampler(settings, (2,), 32_000, 32_000, 1.0)
    with pytest.raises(ServerError, match="did not take its weights") as error:
        sampler.sample(small_mistral.model, [[1, 5]], torch.zeros(1, 4, dtype=torch.float64))
    assert "VLLM_SERVER_DEV_MODE=1" in str(error.value.fix) and any("404" in fact for fact in error.value.facts)
    assert (tmp_path / "student" / "model.safetensors").exists()


def test_an_answer_has_a_log_probability_for_each_token_with_the_one_that_ends_it() -> None:
    call, read = Vllm("m").drawn_call(Prompt("0", (1, 5)), SAMPLING, barred=range(10, 12))
    assert call.body["logprobs"] == 0 and call.body["logit_bias"] == {"10": -100, "11": -100}
    assert (call.body["temperature"], call.body["seed"], call.body["stop_token_ids"]) == (0.5, 3, [2])
    found = read((ANSWER % "-1, -2.5, -0.25").encode()).value
    assert isinstance(found, Sampled) and found.answer.scored_ids == (7, 8, 2) and found.logp == (-1, -2.5, -0.25)
    with pytest.raises(WrongAnswer, match="another number"):
        read((ANSWER % "-1, -2.5").encode())

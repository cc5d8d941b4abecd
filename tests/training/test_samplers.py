"""What the sampler computed against what the step computes: equal weights are let through, others stop the run."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from transformers import LlamaForCausalLM

from distillab.config.on_policy import StudentAnswersConfig
from distillab.errors import NumericsError
from distillab.models.rollout import Sampled, trains_with_dropout
from distillab.training.samplers import ContinuousBatching, LocalSampler
from tests.training.conftest import REVERSE, STOP, VOCABULARY, Train, ragged_split, tiny_llama

OWN = StudentAnswersConfig(fraction=0.75, max_new_tokens=10)
LOCAL = LocalSampler((STOP,), VOCABULARY, 1.0)


class HalfUpdated:
    """Has the student's present weights in its first layer, and the first ones that it was given elsewhere."""

    name: ClassVar[str] = "half"
    remedy: ClassVar[str] = "update all"
    width = VOCABULARY

    def __init__(self) -> None:
        self.model: LlamaForCausalLM | None = None

    def sample(self, model: Any, prompts: Sequence[Sequence[int]], uniform_BT: torch.Tensor) -> list[Sampled]:
        if self.model is None:
            self.model = copy.deepcopy(model)
        self.model.model.layers[0].load_state_dict(model.model.layers[0].state_dict())
        return LOCAL.sample(self.model, prompts, uniform_BT)


@dataclass(frozen=True)
class Shifted(LocalSampler):
    """Reports log-probabilities that are too high."""

    by: float = 0.0

    def sample(self, model: Any, prompts: Sequence[Sequence[int]], uniform_BT: torch.Tensor) -> list[Sampled]:
        found = super().sample(model, prompts, uniform_BT)
        return [replace(one, logp=tuple(logp + self.by for logp in one.logp)) for one in found]


def test_a_half_updated_sampler_is_caught_before_its_answers_change_the_student(train: Train) -> None:
    settings: dict[str, Any] = {"terms": REVERSE, "own": OWN, "schedule": "constant"}
    one_step, _ = train(steps=1, **settings)
    student = tiny_llama(0)
    with pytest.raises(NumericsError, match="does not have the student's weights") as error:
        train(steps=3, student=student, sampler=HalfUpdated(), **settings)
    assert error.value.where == "step 2, answers.sampler: half" and error.value.fix == "update all"
    for found, expected in zip(student.parameters(), one_step.parameters(), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("setting", [{}, {"microbatch_size": 2}, {"padding_side": "left"}])
def test_the_gap_is_the_mean_over_the_written_tokens(train: Train, setting: dict[str, Any]) -> None:
    _, (exact,) = train(terms=REVERSE, own=OWN, **setting)
    _, (shifted,) = train(terms=REVERSE, own=OWN, sampler=Shifted((STOP,), VOCABULARY, 1.0, by=0.015), **setting)
    assert exact.rollout is not None and shifted.rollout is not None
    assert 0 < exact.rollout["sampler_gap"] < 1e-5
    assert shifted.rollout["sampler_gap"] == pytest.approx(0.015, abs=1e-5)
    assert shifted.loss == exact.loss
    with pytest.raises(NumericsError, match=r"differs by 0\.025 nats"):
        train(terms=REVERSE, own=OWN, sampler=Shifted((STOP,), VOCABULARY, 1.0, by=0.025), **setting)


def test_with_dropout_the_two_passes_differ_and_nothing_is_concluded(train: Train) -> None:
    student = tiny_llama(0)
    state = torch.get_rng_state()
    assert not trains_with_dropout(student)
    for layer in student.model.layers:
        layer.self_attn.attention_dropout = 0.5
    student.train()
    assert trains_with_dropout(student) and student.training and torch.equal(torch.get_rng_state(), state)


def test_continuous_batching_writes_what_the_own_loop_writes(train: Train) -> None:
    model = tiny_llama(0).train()
    prompts = [row.input_ids[: row.prompt_length].tolist() for row in ragged_split(6).rows]
    numbers = torch.zeros(len(prompts), 12, dtype=torch.float64)
    expected = LocalSampler((STOP, 40), VOCABULARY, 0).sample(model, prompts, numbers)
    found = ContinuousBatching((STOP, 40), VOCABULARY, greedy=True).sample(model, prompts, numbers)
    assert [one.answer for one in found] == [one.answer for one in expected] and model.training
    assert {one.answer.stopped for one in found} == {True, False}
    for one, other in zip(found, expected, strict=True):
        assert one.logp == pytest.approx(other.logp, abs=1e-5)
    _, (report,) = train(terms=REVERSE, own=OWN, sampler=ContinuousBatching((STOP,), VOCABULARY, greedy=False))
    assert report.rollout is not None and 0 < report.rollout["sampler_gap"] < 1e-5

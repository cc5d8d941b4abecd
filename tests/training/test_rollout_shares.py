"""What has the same weight in a step: each token or each answer, with those that were cut or without."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from distillab.config.on_policy import StudentAnswersConfig
from tests.training.conftest import (
    REVERSE,
    STOP,
    Train,
    first_rows,
    ragged_split,
    rewritten,
    rollout,
    teacher,
    tiny_llama,
)


def _ending() -> LlamaForCausalLM:
    """A student some of whose answers end."""
    model = tiny_llama(0)
    with torch.no_grad():
        model.lm_head.weight[STOP] *= 20
    return model


def _step(own: StudentAnswersConfig) -> Any:
    split = ragged_split(8)
    (batch,) = rewritten(rollout(own, split, 1), first_rows(), _ending())
    return batch


def _answers(own: StudentAnswersConfig) -> list[tuple[bool, bool, list[float]]]:
    """Of each row of the step: whether it was written, whether it was cut, and its nats at each token."""
    batch, student, source = _step(own), _ending().eval(), teacher()
    found = []
    for place in range(8):
        here = batch["attention_mask"][place].bool()
        ids, mask = batch["input_ids"][place][here], batch["answer_mask"][place][here]
        with torch.no_grad():
            q, p = (model(input_ids=ids[None]).logits[0].double().log_softmax(-1) for model in (student, source.model))
        nats = (q.exp() * (q - p)).sum(-1)[:-1][mask[1:]].tolist()
        written = bool(batch["written"][place].any())
        found.append((written, written and int(ids[-1]) != STOP, nats))
    return found


@pytest.mark.parametrize("microbatch", [8, 2])
@pytest.mark.parametrize("truncated", ["train", "drop"])
@pytest.mark.parametrize("weight_by", ["token", "sequence"])
def test_the_loss_is_the_naive_mean(train: Train, weight_by: Any, truncated: Any, microbatch: int) -> None:
    own = StudentAnswersConfig(fraction=0.75, max_new_tokens=10, weight_by=weight_by, truncated=truncated)
    answers = _answers(own)
    assert 0 < sum(cut for _, cut, _ in answers) < 6
    kept = [(written, nats) for written, cut, nats in answers if truncated == "train" or not cut]
    means = [np.mean(nats) for _, nats in kept] if weight_by == "sequence" else [n for _, nats in kept for n in nats]
    _, (report,) = train(terms=REVERSE, own=own, student=_ending(), microbatch_size=microbatch)
    assert report.loss == pytest.approx(float(np.mean(means)), rel=1e-5)
    assert report.rollout is not None
    # the figures are of tokens in any case
    own_nats = [n for written, nats in kept if written for n in nats]
    assert report.rollout["nats"] == pytest.approx(np.mean(own_nats), rel=1e-5)
    assert report.rollout["tokens"] == sum(len(nats) for written, _, nats in answers if written)


def test_a_step_of_cut_answers_alone_has_no_loss(train: Train) -> None:
    own = StudentAnswersConfig(fraction=1.0, max_new_tokens=2, truncated="drop", repetition_guard=False)
    _, (report,) = train(terms=REVERSE, own=own)
    assert report.rollout is not None and report.rollout["truncated"] == 1.0
    assert report.loss == report.grad_norm == 0.0

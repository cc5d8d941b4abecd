"""Answers that are used for several steps: the same rows, weighed by what the student gives them now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from distillab.config.on_policy import StudentAnswersConfig
from distillab.training.step_report import StepReport
from tests.training.conftest import (
    REVERSE,
    Train,
    first_rows,
    flat_parameters,
    ragged_split,
    rewritten,
    rollout,
    teacher,
    tiny_llama,
)

TWICE = StudentAnswersConfig(fraction=0.75, max_new_tokens=10, reuse=2)


def _figures(reports: list[StepReport]) -> list[dict[str, float]]:
    return [report.rollout for report in reports if report.rollout is not None]


@pytest.mark.parametrize("microbatch", [8, 2])
def test_the_second_step_weighs_each_written_token_by_the_clipped_ratio(train: Train, microbatch: int) -> None:
    split, source = ragged_split(8), teacher()
    settings: dict[str, Any] = {"terms": REVERSE, "schedule": "constant", "learning_rate": 0.1, "split": split}
    after_one, _ = train(steps=1, own=TWICE, **settings)
    _, (_, second) = train(steps=2, own=TWICE, microbatch_size=microbatch, **settings)
    (batch,) = rewritten(rollout(TWICE, split, 2), first_rows(), tiny_llama(0))
    total, count, weights = 0.0, 0, []
    for place in range(8):
        here = batch["attention_mask"][place].bool()
        ids, own = batch["input_ids"][place][here], batch["written"][place][here]
        with torch.no_grad():
            q, then, p = (
                model(input_ids=ids[None]).logits[0].double().log_softmax(-1)
                for model in (after_one.eval(), tiny_llama(0), source.model)
            )
        for position in torch.nonzero(batch["answer_mask"][place][here])[:, 0].tolist():
            token, before = int(ids[position]), position - 1
            ratio = float((q[before, token] - then[before, token]).exp())
            if own[position]:
                weights.append(min(ratio, 2.0))
            weight = weights[-1] if own[position] else 1.0
            total += weight * float((q[before].exp() * (q[before] - p[before])).sum())
            count += 1
    assert max(weights) == 2.0 and min(weights) < 0.5
    assert second.loss == pytest.approx(total / count, rel=1e-4)
    ess = sum(weights) ** 2 / (len(weights) * sum(weight**2 for weight in weights))
    assert _figures([second])[0]["stale_ess"] == pytest.approx(ess, rel=1e-4)


def test_every_second_step_writes_and_the_one_between_has_the_same_rows(train: Train) -> None:
    _, reports = train(terms=REVERSE, own=TWICE, steps=4, split=ragged_split(16))
    figures = _figures(reports)
    assert [one["stale_max_age"] for one in figures] == [0, 1, 0, 1]
    assert [one["tokens"] > 0 for one in figures] == [True, False, True, False]
    assert [one["prompt_tokens"] > 0 for one in figures] == [True, False, True, False]
    assert [("sampler_gap" in one, "stale_ess" in one) for one in figures] == [(True, False), (False, True)] * 2
    tokens = [report.tokens for report in reports]
    assert tokens[0] == tokens[1] and tokens[2] == tokens[3] and tokens[0] != tokens[2]
    assert all(0 < one["stale_ess"] < 1 for one in figures[1::2])
    _, (once,) = train(terms=REVERSE, own=TWICE.model_copy(update={"reuse": 1}), split=ragged_split(16))
    assert once.loss == reports[0].loss and "stale_max_age" not in _figures([once])[0]


def test_a_checkpoint_waits_for_the_next_rollout_and_the_resumed_run_is_the_same(train: Train, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 7, "batch_size": 4, "checkpoint_every": 2, "split": ragged_split(10)}
    settings |= {"terms": REVERSE, "own": TWICE.model_copy(update={"reuse": 3})}
    straight, reports = train(folder=tmp_path / "straight", **settings)
    with pytest.raises(KeyboardInterrupt):
        train(folder=tmp_path / "killed", stop_after=5, **settings)
    assert [path.name for path in (tmp_path / "killed").glob("checkpoint-*")] == ["checkpoint-3"]
    resumed, rest = train(folder=tmp_path / "killed", resume=str(tmp_path / "killed" / "checkpoint-3"), **settings)
    assert torch.equal(flat_parameters(resumed), flat_parameters(straight))
    assert [report.loss for report in rest] == [report.loss for report in reports[3:]]

"""Packing changes no update; grouping by length trains on the same rows; both survive an interruption."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.training.conftest import Train, flat_parameters, ragged_split


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("method", ["sft", "logits"])
def test_packing_does_not_change_the_update(train: Train, method: str, side: str) -> None:
    plain, (before,) = train(method=method)
    for microbatch in (8, 4):
        packed, (report,) = train(method=method, packing=True, padding_side=side, microbatch_size=microbatch)
        assert report.loss == pytest.approx(before.loss, abs=1e-5)
        assert report.grad_norm == pytest.approx(before.grad_norm, rel=1e-4)
        assert (report.tokens, report.terms.keys()) == (before.tokens, before.terms.keys())
        torch.testing.assert_close(flat_parameters(packed), flat_parameters(plain), atol=1e-5, rtol=0)


@pytest.mark.parametrize("setting", ["packing", "group_by_length"])
def test_a_killed_run_resumes_bit_exactly(train: Train, tmp_path: Path, setting: str) -> None:
    settings = {"steps": 8, "batch_size": 4, "checkpoint_every": 2, "split": ragged_split(10), setting: True}
    straight, _ = train(folder=tmp_path / "straight", method="sft", **settings)
    with pytest.raises(KeyboardInterrupt):
        train(folder=tmp_path / "killed", stop_after=5, method="sft", **settings)
    last = str(tmp_path / "killed" / "checkpoint-4")
    resumed, _ = train(folder=tmp_path / "killed", resume=last, method="sft", **settings)
    assert torch.equal(flat_parameters(resumed), flat_parameters(straight))


def test_grouping_trains_on_the_same_rows(train: Train) -> None:
    """One step holds all rows, in another order: the same sum."""
    plain, (before,) = train(method="sft")
    grouped, (report,) = train(method="sft", group_by_length=True, microbatch_size=2)
    assert report.loss == pytest.approx(before.loss, abs=1e-5)
    torch.testing.assert_close(flat_parameters(grouped), flat_parameters(plain), atol=1e-5, rtol=0)

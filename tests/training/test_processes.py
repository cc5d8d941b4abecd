"""Two gloo processes must do what one process does (transformers' accelerate launcher starts one in silence)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.two_processes import in_processes

WORKER = "tests.training.step_worker"


def test_two_processes_equal_one(tmp_path: Path) -> None:
    one = in_processes(WORKER, tmp_path / "one", "8", processes=1)
    two = in_processes(WORKER, tmp_path / "two", "2")  # with accumulation too
    assert (one["world"], two["world"]) == (1, 2)
    for a, b in zip(one["reports"], two["reports"], strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-4)
        assert b["tokens"] == a["tokens"]
        for term, (total, count) in a["terms"].items():
            assert b["terms"][term][0] == pytest.approx(total, rel=1e-5)
            assert b["terms"][term][1] == count
    assert two["parameters"] == pytest.approx(one["parameters"], abs=1e-4)


@pytest.mark.slow
def test_two_processes_write_what_one_writes(tmp_path: Path) -> None:
    one = in_processes(WORKER, tmp_path / "one", "8", "writes", processes=1)
    two = in_processes(WORKER, tmp_path / "two", "2", "writes")
    assert (one["world"], two["world"]) == (1, 2)
    for a, b in zip(one["reports"], two["reports"], strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
        assert b["supervised_tokens"] == a["supervised_tokens"]
        for name in ("tokens", "length_mean", "length_p10", "truncated", "repetitive", "fraction", "nats"):
            assert b["rollout"][name] == pytest.approx(a["rollout"][name], rel=1e-5)
    assert two["parameters"] == pytest.approx(one["parameters"], abs=1e-4)

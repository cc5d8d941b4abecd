"""FSDP2 on two gloo processes gives the unsharded loss and gradients, whichever way the head is wrapped."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.two_processes import in_processes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "head"), [("untied", "root"), ("untied", "apart"), ("tied", "root")], ids=lambda value: value
)
def test_loss_and_gradients_equal_the_unsharded_ones(tmp_path: Path, kind: str, head: str) -> None:
    result = in_processes("tests.training.sharded_worker", tmp_path, kind, head)
    assert result["loss"] == pytest.approx(result["expected"], rel=1e-5)
    assert result["worst"] < 1e-5

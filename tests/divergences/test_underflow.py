"""Probabilities that are too small for float32, beside others that are smaller still."""

from __future__ import annotations

import pytest
import torch

from distillab.divergences.by_name import divergence


@pytest.mark.parametrize("name", ["skewed_forward_kl", "skewed_reverse_kl"])
@pytest.mark.parametrize("far", [-95.0, -103.0, -300.0])
def test_a_mixture_that_underflows_before_its_part_counts_nothing(name: str, far: float) -> None:
    fn = divergence(name, {"skew": 0.1})
    for student, teacher in (([0.0, -103.0], [0.0, far]), ([0.0, far], [0.0, -103.0])):
        leaf = torch.tensor([student]).requires_grad_()
        value = fn(student_logp=leaf, teacher_logp=torch.tensor([teacher]))
        value.sum().backward()
        assert float(value.detach()) == pytest.approx(0.0, abs=1e-6)
        assert leaf.grad is not None and bool(leaf.grad.isfinite().all())

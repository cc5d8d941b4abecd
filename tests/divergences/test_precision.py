"""How much of a divergence survives bfloat16 logits of a large vocabulary: float32 against float64 of the same numbers.

Stated bounds at V = 150,000: the divergence itself errs by less than 3·10⁻⁶ of its value plus 2·10⁻⁷; with torch's
float32 log_softmax in front, whose normaliser is off by up to 2·10⁻⁵ on a CPU, by less than 5·10⁻⁵ of its value plus
5·10⁻⁶. The bfloat16 of the logits costs nothing beyond their own rounding, as nothing is computed in it.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from distillab.divergences.by_name import BY_NAME
from tests.divergences.members import MEMBERS, Member

V = 150_000
# one of each: the parameters change little here, and each costs a second
CHOSEN = [next(member for member in MEMBERS if member.name == name) for name in BY_NAME]


@pytest.fixture(scope="module")
def logits() -> tuple[Tensor, Tensor]:
    """Student and teacher, (2, V) bfloat16: one row where they are far apart, one where they are close."""
    generator = torch.Generator().manual_seed(11)
    teacher = 4 * torch.randn(2, V, generator=generator)
    student = teacher + torch.tensor([[2.0], [0.1]]) * torch.randn(2, V, generator=generator)
    return student.bfloat16(), teacher.bfloat16()


@pytest.mark.parametrize("member", CHOSEN, ids=str)
def test_error_of_value_and_gradient_with_bfloat16_logits(logits: tuple[Tensor, Tensor], member: Member) -> None:
    def run(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        student.requires_grad_()
        values = member(student_logp=student.log_softmax(-1), teacher_logp=teacher.log_softmax(-1))
        (gradient,) = torch.autograd.grad(values.sum(), student)
        return values.detach(), gradient.double()

    single, single_gradient = run(*(side.float() for side in logits))
    exact, exact_gradient = run(*(side.double() for side in logits))
    assert single.dtype == torch.float32 and exact.dtype == torch.float64
    torch.testing.assert_close(single.double(), exact, rtol=5e-5, atol=5e-6)
    torch.testing.assert_close(
        single_gradient, exact_gradient, rtol=1e-3, atol=1e-4 * exact_gradient.abs().max().item()
    )
    student, teacher = (side.float().log_softmax(-1) for side in logits)
    alone = member(student_logp=student, teacher_logp=teacher).double()
    exact_alone = member(student_logp=student.double(), teacher_logp=teacher.double())
    torch.testing.assert_close(alone, exact_alone, rtol=3e-6, atol=2e-7)

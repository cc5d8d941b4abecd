"""Losses of one's own, as terms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import cross_entropy

from distillab.config.term_base import BaseTermConfig
from distillab.config.terms import CrossEntropyConfig, CustomDivergenceConfig, CustomLossConfig, TokenDivergenceConfig
from distillab.data.collation import Collator, IndexedRow
from distillab.divergences import forward_kl
from distillab.errors import ConfigError, TeacherError
from distillab.models import chunking
from distillab.objectives import build_objective
from distillab.objectives.step import Measured, measure
from distillab.teachers.signals import TeacherSignal
from tests.training.conftest import VOCABULARY, ragged_split, tiny_llama
from tests.training.conftest import teacher as local_teacher

CPU = torch.device("cpu")
BATCH = Collator(0)([IndexedRow(n, row) for n, row in enumerate(ragged_split(5).rows)])


def _forward_kl(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    return forward_kl(student_logp=student_logits.log_softmax(-1), teacher_logp=teacher_logits.log_softmax(-1))


def _measured(settings: BaseTermConfig, width: int = VOCABULARY) -> tuple[Measured, list[Tensor]]:
    student = tiny_llama(0)
    objective = build_objective([settings], shared_width=width)
    teacher = local_teacher(tiny_llama(1)) if objective.reads_teacher else None
    signal = TeacherSignal() if teacher is None else teacher.signal(BATCH, objective.request)
    measured = measure(student, BATCH, objective, signal, factors={objective.names[0]: 0.3}, device=CPU)
    next(iter(measured.losses.values())).backward()
    return measured, [p.grad for p in student.parameters() if p.grad is not None]


@pytest.mark.parametrize("rows", [128, 3])
@pytest.mark.parametrize("width", [VOCABULARY, VOCABULARY - 5])
def test_forward_kl_of_ones_own_is_token_divergence_but_for_rounding(
    rows: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunking, "LEAST_ROWS", rows)
    monkeypatch.setitem(chunking.CHUNK_BYTES, "cpu", rows * 4 * VOCABULARY)
    mine, gradients = _measured(CustomDivergenceConfig(loss=_forward_kl, name="mine"), width)
    theirs, expected = _measured(TokenDivergenceConfig(), width)
    # differences of two log-probabilities of about log V, each rounded, in both ways
    rounding = 4 * math.log(VOCABULARY) * torch.finfo(torch.float32).eps / 2
    torch.testing.assert_close(mine.values["mine"], theirs.values["token_divergence"], rtol=1e-5, atol=rounding)
    assert len(gradients) == len(expected) > 0
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6 * float(other.abs().max()))


def test_cross_entropy_of_torch_is_cross_entropy() -> None:
    mine, gradients = _measured(CustomLossConfig(loss=lambda x, labels: cross_entropy(x, labels, reduction="none")))
    ours, expected = _measured(CrossEntropyConfig())
    torch.testing.assert_close(mine.values["custom"], ours.values["cross_entropy"])
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("loss", "fact"),
    [
        (cross_entropy, r"gives \(\)"),
        (lambda x, labels: x, r"gives \(3, "),
        (lambda x, labels: 1.0, "gives float"),
        (lambda x, labels: cross_entropy(x, labels, reduction="none") / len(labels), "other positions"),
        (lambda x, labels: x[:, 0] - x.mean(), "other positions"),
        (lambda x, labels: x[:, 0] + torch.rand(()), "from call to call"),
        (lambda x, labels: x.detach()[:, 0], "no gradient"),
    ],
)
def test_a_loss_that_is_not_of_each_position_alone_is_refused(loss: Callable[..., Any], fact: str) -> None:
    with pytest.raises(ConfigError, match="one value for each position") as caught:
        _measured(CustomLossConfig(loss=loss))
    assert caught.match(fact) and caught.match("reduction='none'")


def test_a_loss_that_writes_into_the_teachers_logits_is_refused() -> None:
    def loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        return _forward_kl(student_logits, teacher_logits.div_(2.0), labels)

    with pytest.raises(ConfigError, match="changes teacher_logits in place"):
        _measured(CustomDivergenceConfig(loss=loss))


def test_a_loss_with_other_arguments_is_refused_at_once() -> None:
    with pytest.raises(ValidationError, match=r"loss\(student_logits, teacher_logits, labels\)"):
        CustomDivergenceConfig(loss=lambda logits, labels: logits)
    with pytest.raises(ValidationError, match=r"loss\(student_logits, labels\)"):
        CustomLossConfig(loss=_forward_kl)


def test_a_divergence_needs_a_teacher_and_a_loss_does_not() -> None:
    build_objective([CustomLossConfig(loss=cross_entropy)], shared_width=0).require(None)
    with pytest.raises(TeacherError, match="my_kl needs a teacher"):
        build_objective([CustomDivergenceConfig(loss=_forward_kl, name="my_kl")], shared_width=4).require(None)

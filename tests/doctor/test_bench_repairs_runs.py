"""What the bench's losses and runs have shown to be missed, or called by another name; with good neighbours."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from distillab.doctor import audit_loss, audit_run
from distillab.records import Finding

LOG_V = math.log(512)


# ---------------------------------------------------------------- losses: the teacher of another row


def _divergence(order: Callable[[Tensor], Tensor], *, weighted: bool = False) -> Callable[..., Tensor]:
    def loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        keep = labels[:, 1:] != -100
        t, s = order(teacher_logits)[:, :-1].log_softmax(-1), student_logits[:, :-1].log_softmax(-1)
        weight = t.exp().amax(-1) * keep if weighted else keep.float()
        return ((t.exp() * (t - s)).sum(-1) * weight).sum() / weight.sum().clamp(min=1e-6)

    return loss


def _errors(loss: Callable[..., Tensor]) -> list[Finding]:
    return [finding for finding in audit_loss(loss, given="sequences").findings if finding.severity == "error"]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    "order",
    [lambda t: t.flip(0), lambda t: t.roll(1, 0), lambda t: t[[0, 2, 1, 3]], lambda t: t[:1].expand_as(t)],
    ids=["turned", "rolled", "two-in-their-place", "the-first-for-all"],
)
def test_the_teacher_of_another_row(order: Callable[[Tensor], Tensor], weighted: bool) -> None:
    found = _errors(_divergence(order, weighted=weighted))
    assert [finding.id for finding in found] == ["loss-reads-teacher-elsewhere"]
    assert found[0].title == "The student's rows are compared with other rows of the teacher."


def test_which_row_is_read_is_said() -> None:
    (found,) = _errors(_divergence(lambda t: t.roll(1, 0)))
    assert "teacher row → student row: 0 → 1, 1 → 2, 2 → 3, 3 → 0" in found.evidence
    assert found.evidence[-1] == "value at student = the teacher's rows in that order: 0"


@pytest.mark.parametrize("weighted", [False, True])
def test_the_teacher_of_the_own_row(weighted: bool) -> None:
    assert _errors(_divergence(lambda t: t, weighted=weighted)) == []


def _advantages(teacher_logits: Tensor, student_logits: Tensor, labels: Tensor, *, shared: bool) -> Tensor:
    """A policy gradient on given tokens: the teacher says how much, the label says what."""
    keep, at = labels[:, 1:] != -100, labels[:, 1:].clamp(min=0).unsqueeze(-1)
    s = student_logits[:, :-1].log_softmax(-1).gather(-1, at)[..., 0]
    t = teacher_logits[:, :-1].log_softmax(-1).gather(-1, at)[..., 0]
    reward = (t - s.detach()) * keep
    if shared:  # one of each row, compared with those of the other rows
        of_row = reward.sum(1) / keep.sum(1).clamp(min=1)
        reward = ((of_row - of_row.mean()) / (of_row.std() + 1e-6))[:, None].expand_as(s)
    return -(reward * s * keep).sum() / keep.sum().clamp(min=1)


@pytest.mark.parametrize("shared", [False, True])
def test_an_advantage_is_no_other_row(shared: bool) -> None:
    def loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        return _advantages(teacher_logits, student_logits, labels, shared=shared)

    assert {"loss-reads-teacher-elsewhere", "loss-ignores-teacher"}.isdisjoint(f.id for f in _errors(loss))


@pytest.mark.parametrize("along", [0, 1])
def test_an_advantage_of_another_row_or_position(along: int) -> None:
    def loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        return _advantages(teacher_logits.roll(1, along), student_logits, labels, shared=False)

    assert "loss-reads-teacher-elsewhere" in {finding.id for finding in _errors(loss)}


def test_a_teacher_that_no_row_reads_is_still_ignored() -> None:
    def loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(student_logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    assert [finding.id for finding in _errors(loss)] == ["loss-ignores-teacher"]


# ---------------------------------------------------------------- runs


def _found(
    tmp_path: Path,
    losses: Sequence[float],
    rates: Sequence[float] | None = None,
    norms: Sequence[float] | None = None,
    held_out: Sequence[float] | None = None,
    random_student: bool = True,
) -> dict[str, str]:
    """Ids and severities for a log of a line a step; `held_out` is measured at equal distances to the end."""
    rows = []
    for at, loss in enumerate(losses):
        row = {"step": at + 1, "loss": loss + 0.02 * math.sin(7.3 * at), "grad_norm": norms[at] if norms else 1.0}
        rows.append(row | {"learning_rate": rates[at] if rates else 1e-3})
    for number, value in enumerate(held_out or ()):
        rows[(number + 1) * len(rows) // len(held_out or ()) - 1]["eval_loss"] = value
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    findings = audit_run(path, vocabulary=512, random_student=random_student).findings
    return {finding.id: finding.severity for finding in findings}


# it learns for 30 steps, and loses half of that again
RISES = [LOG_V - 1.3 * min(1.0, at / 30) + 0.6 * max(0, at - 30) / 90 for at in range(120)]
GROWS = [0.8 + at * 0.14 for at in range(120)]


@pytest.mark.parametrize(
    ("norms", "held_out"),
    [(GROWS, None), (None, [5.0, 4.95, 5.2, 5.4, 5.6])],
    ids=["the-norm-grows", "the-held-out-loss-rises"],
)
def test_a_rise_that_something_else_confirms(
    norms: list[float] | None, held_out: list[float] | None, tmp_path: Path
) -> None:
    found = _found(tmp_path, RISES, norms=norms, held_out=held_out)
    assert found["loss-diverges"] == "warning"
    assert "loss-flat-near-uniform" not in found


@pytest.mark.parametrize(
    ("norms", "held_out"),
    [(None, None), (GROWS, [5.0, 4.95, 4.9, 4.85, 4.8]), (None, [5.0, 4.95, 4.9, 4.9, 5.2])],
    ids=["nothing-else", "harder-rows-at-the-end", "one-bad-measurement"],
)
def test_a_rise_that_nothing_else_confirms(
    norms: list[float] | None, held_out: list[float] | None, tmp_path: Path
) -> None:
    assert "loss-diverges" not in _found(tmp_path, RISES, norms=norms, held_out=held_out)


def _falls(to: float, pace: float, steps: int = 120) -> list[float]:
    return [to + (LOG_V - to) * math.exp(-at / pace) for at in range(steps)]


EPOCHS_TAKEN_AT_STEPS = [1e-3 * 0.9**at for at in range(120)]
IN_TENTHS = [1e-3 * 0.1 ** (at // 40) for at in range(120)]
TO_A_THOUSANDTH = [1e-3 * 10 ** (-3 * at / 120) for at in range(120)]
HELD_THEN_DOWN = [1e-3 * min(1.0, (120 - at) / 20) for at in range(120)]
RESTARTED = [5e-4 * (1 + math.cos(math.pi * (at % 30) / 30)) for at in range(120)]
FOR_HALF_OF_THE_STEPS = [5e-4 * (1 + math.cos(math.pi * min(at, 50) / 50)) for at in range(120)]
SHORT = "schedule-decays-too-early"


@pytest.mark.parametrize("rates", [EPOCHS_TAKEN_AT_STEPS, FOR_HALF_OF_THE_STEPS])
def test_a_rate_that_is_gone_while_there_was_more_to_learn(rates: list[float], tmp_path: Path) -> None:
    losses = [LOG_V - 1.1 * sum(rates[:at]) / sum(rates) for at in range(120)]  # it falls as the rate allows
    assert _found(tmp_path, losses, rates)[SHORT] == "warning"
    # where it began is not known: the steps were lost all the same
    assert _found(tmp_path, losses, rates, random_student=False)[SHORT] == "note"


@pytest.mark.parametrize(
    "rates",
    [IN_TENTHS, TO_A_THOUSANDTH, HELD_THEN_DOWN, RESTARTED, [1e-3 * (1 - at / 120) for at in range(120)]],
    ids=["in-tenths", "to-a-thousandth", "held-then-down", "restarted", "linear"],
)
def test_a_rate_that_lasts(rates: list[float], tmp_path: Path) -> None:
    assert SHORT not in _found(tmp_path, _falls(5.1, 10), rates)


def test_a_rate_that_is_gone_where_nothing_was_left_to_learn(tmp_path: Path) -> None:
    # flat long before the rate fell
    assert SHORT not in _found(tmp_path, _falls(5.1, 2), EPOCHS_TAKEN_AT_STEPS)
    # the loss goes on falling: the rate was large enough for it
    assert SHORT not in _found(tmp_path, _falls(3.0, 60), EPOCHS_TAKEN_AT_STEPS)


def test_a_low_loss_at_a_rate_that_is_gone_is_a_note(tmp_path: Path) -> None:
    assert _found(tmp_path, _falls(2.0, 6), EPOCHS_TAKEN_AT_STEPS)[SHORT] == "note"


# ---------------------------------------------------------------- what its first run has shown


def _fell(to: float, pace: float, steps: int) -> list[float]:
    """A fall to that loss from log V above it."""
    return [to + LOG_V * math.exp(-step / pace) for step in range(steps)]


def test_a_first_loss_far_above_log_v_is_no_multiple_where_the_held_out_loss_is_as_large(tmp_path: Path) -> None:
    losses = [8.02 * LOG_V, *(6 + 44 * math.exp(-step / 15) for step in range(1, 120))]
    found = _found(tmp_path, losses, held_out=losses[9::10])
    assert "initial-loss-far-from-uniform" in found
    assert "accumulation-rescales" not in found


def test_a_softmax_taken_twice_stays_near_log_v(tmp_path: Path) -> None:
    losses = [LOG_V - 0.13 * min(1.0, step / 50) for step in range(120)]
    assert "loss-flat-near-uniform" in _found(tmp_path, losses)


def test_both_losses_at_a_hundredth_of_log_v(tmp_path: Path) -> None:
    losses = [0.07 + (LOG_V - 0.07) * math.exp(-step / 20) for step in range(250)]
    assert "loss-too-good" in _found(tmp_path, losses, held_out=losses[9::10])
    assert "loss-too-good" not in _found(tmp_path, losses, held_out=[loss + 0.05 for loss in losses[9::10]])


def test_one_broken_batch_in_fifteen(tmp_path: Path) -> None:
    assert "loss-spikes" in _found(tmp_path, [4.6 + 3.0 * (step % 15 == 14) for step in range(120)])
    assert "loss-spikes" not in _found(tmp_path, [4.6] * 120)


def test_rows_learned_by_heart_beyond_log_v_are_overfitting_too(tmp_path: Path) -> None:
    found = _found(tmp_path, _fell(0.05, 40, 250), held_out=[5.0 + 8.0 * at / 24 for at in range(25)])
    assert {"overfitting", "held-out-above-uniform"} <= set(found)


def test_weights_thrown_at_the_start(tmp_path: Path) -> None:
    assert "loss-diverges" in _found(tmp_path, [LOG_V, *(40 * math.exp(-at / 40) + 5 for at in range(119))])
    assert "loss-diverges" not in _found(tmp_path, _fell(0.0, 400, 120))

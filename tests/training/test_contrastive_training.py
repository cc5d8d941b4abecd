"""The queue of the term contrastive in the trainer: the same however a step is split, and after a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from distillab.config.layer_terms import ContrastiveConfig
from distillab.training.checkpoints import checkpoint_bytes
from distillab.training.projectors import FILE, detach
from distillab.training.step_report import StepReport
from distillab.training.trainer import DistillationTrainer
from tests.training.span_runs import span_trainer
from tests.training.two_processes import in_processes

TERM = ContrastiveConfig(width=8, queue=20, temperature="learned")


def _curve(reports: list[StepReport]) -> list[float]:
    return [number for report in reports for number in (report.loss, report.grad_norm, *report.terms["contrastive"])]


def _run(folder: Path, resume: str | None = None, **settings: Any) -> tuple[DistillationTrainer, list[StepReport]]:
    reports: list[StepReport] = []
    trainer = span_trainer(folder, on_step=reports.append, term=TERM, **settings)
    trainer.train(resume_from_checkpoint=resume)
    return trainer, reports


def _queue(trainer: DistillationTrainer) -> dict[str, torch.Tensor]:
    found = {name.rsplit(".", 1)[1]: buffer for name, buffer in trainer.model.named_buffers() if "queue" in name}
    assert set(found) == {"states", "texts", "taken"}
    return found


def test_microbatches_of_any_size_give_one_curve_and_one_queue(tmp_path: Path) -> None:
    whole, reports = _run(tmp_path / "whole")
    assert int(_queue(whole)["taken"]) > 20  # it has gone round
    for size in (1, 4):
        parts, others = _run(tmp_path / str(size), microbatch_size=size, padding_side="left")
        assert _curve(others) == pytest.approx(_curve(reports), rel=2e-4)
        for name, buffer in _queue(parts).items():
            torch.testing.assert_close(buffer, _queue(whole)[name], rtol=1e-4, atol=1e-5)


def test_a_look_at_the_gradients_changes_nothing(tmp_path: Path) -> None:
    plain, reports = _run(tmp_path / "without", gradient_shares_every=0)
    trainer, looked = _run(tmp_path / "with", gradient_shares_every=1)
    assert _curve(looked) == pytest.approx(_curve(reports), rel=1e-5)
    shares = looked[-1].gradient_shares
    assert shares is not None and shares["contrastive"] > 0
    for name, buffer in _queue(trainer).items():
        torch.testing.assert_close(buffer, _queue(plain)[name])


def test_a_run_that_was_killed_ends_where_it_would_have(tmp_path: Path) -> None:
    whole, reports = _run(tmp_path / "whole", checkpoint_every=2)

    def kill(report: StepReport) -> None:
        if report.step == 3:
            raise KeyboardInterrupt

    killed = span_trainer(tmp_path / "killed", on_step=kill, term=TERM, checkpoint_every=2)
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    resume = str(tmp_path / "killed" / "checkpoint-2")
    again, after = _run(tmp_path / "killed", resume=resume, checkpoint_every=2)
    assert _curve(after) == pytest.approx(_curve(reports[2:]), rel=1e-6)
    for name, buffer in _queue(again).items():
        assert torch.equal(buffer, _queue(whole)[name])


def test_heads_and_queue_are_saved_beside_the_student_and_counted_for_the_disk(tmp_path: Path) -> None:
    trainer, _ = _run(tmp_path / "run", steps=1)
    with_queue = checkpoint_bytes(trainer.model)
    detach(trainer.model, folder=tmp_path)
    saved = load_file(tmp_path / FILE)
    assert {name.split(".", 1)[1] for name in saved} >= {
        "s2_t3.student.weight",
        "s2_t3.queue.states",
        "s2_t3.log_scale",
    }
    assert with_queue - checkpoint_bytes(trainer.model) >= saved["contrastive.s2_t3.queue.states"].numel() * 4
    assert not [name for name in trainer.model.state_dict() if "queue" in name]


@pytest.mark.slow
def test_two_processes_fill_the_queue_of_one(tmp_path: Path) -> None:
    two = in_processes("tests.training.span_runs", tmp_path / "two", "2", "contrastive")  # with accumulation too
    assert two["world"] == 2
    one, reports = _run(tmp_path / "one")
    queue = _queue(one)
    assert two["queue"]["texts"] == queue["texts"].tolist()
    torch.testing.assert_close(torch.tensor(two["queue"]["states"]), queue["states"].flatten(), rtol=1e-4, atol=1e-5)
    for a, b in zip(reports, two["reports"], strict=True):
        assert b["loss"] == pytest.approx(a.loss, rel=1e-4)
        assert b["grad_norm"] == pytest.approx(a.grad_norm, rel=1e-3)
        assert b["terms"]["contrastive"] == pytest.approx(list(a.terms["contrastive"]), rel=1e-4)

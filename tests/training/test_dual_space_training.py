"""The term dual_space in the trainer: it falls, the same however a step is split, and after a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from distillab.config.terms import DualSpaceConfig
from distillab.training.projectors import FILE, attached, detach
from distillab.training.step_report import StepReport
from distillab.training.trainer import DistillationTrainer
from distillab.training.weighting import shared_parameters
from tests.training.span_runs import span_trainer
from tests.training.two_processes import in_processes


def _curve(reports: list[StepReport]) -> list[float]:
    return [number for report in reports for number in (report.loss, report.grad_norm, *report.terms["dual_space"])]


def _run(
    folder: Path, resume: str | None = None, term: DualSpaceConfig | None = None, **settings: Any
) -> tuple[DistillationTrainer, list[StepReport]]:
    reports: list[StepReport] = []
    trainer = span_trainer(folder, on_step=reports.append, term=term or DualSpaceConfig(), **settings)
    trainer.train(resume_from_checkpoint=resume)
    return trainer, reports


def _projector(trainer: DistillationTrainer) -> dict[str, torch.Tensor]:
    (module,) = attached(trainer.model).values()
    return {name: p.detach().clone() for name, p in module.named_parameters()}


@pytest.mark.parametrize("attention", ["causal", "full"])
def test_its_value_falls_and_all_projectors_learn(attention: Any, tmp_path: Path) -> None:
    before = _projector(span_trainer(tmp_path / "start", on_step=lambda report: None, term=DualSpaceConfig()))
    trainer, reports = _run(tmp_path / "run", term=DualSpaceConfig(attention=attention), steps=16)
    means = [total / count for total, count in (report.terms["dual_space"] for report in reports)]
    assert sum(means[-4:]) < 0.7 * sum(means[:4])
    assert all(not torch.equal(value, before[name]) for name, value in _projector(trainer).items())


def test_its_projectors_are_fitted_before_the_first_step_and_its_gradient_enters_at_the_top(tmp_path: Path) -> None:
    trainer = span_trainer(tmp_path, on_step=lambda report: None, term=DualSpaceConfig())
    for name in ("query", "to_student", "to_teacher"):
        weight = _projector(trainer)[f"{name}.weight"]
        square = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
        assert float((square - torch.eye(square.shape[0])).abs().max()) > 0.1  # drawn ones are orthogonal
    found = shared_parameters(trainer.objective, trainer.model)
    assert {id(p) for p in found} == {id(p) for p in trainer.model.model.layers[-1].parameters()}


def test_microbatches_of_any_size_give_one_curve(tmp_path: Path) -> None:
    _, reports = _run(tmp_path / "whole")
    for size in (1, 4):
        _, others = _run(tmp_path / str(size), microbatch_size=size, padding_side="left")
        assert _curve(others) == pytest.approx(_curve(reports), rel=5e-4)


def test_a_look_at_the_gradients_changes_nothing_and_sees_the_term(tmp_path: Path) -> None:
    _, reports = _run(tmp_path / "without", gradient_shares_every=0)
    _, looked = _run(tmp_path / "with", gradient_shares_every=1)
    assert _curve(looked) == pytest.approx(_curve(reports), rel=1e-5)
    shares = looked[-1].gradient_shares
    assert shares is not None and 0.01 < shares["dual_space"] < 1 and sum(shares.values()) == pytest.approx(1.0)


def test_a_run_that_was_killed_ends_where_it_would_have(tmp_path: Path) -> None:
    whole, reports = _run(tmp_path / "whole", checkpoint_every=2)

    def kill(report: StepReport) -> None:
        if report.step == 3:
            raise KeyboardInterrupt

    killed = span_trainer(tmp_path / "killed", on_step=kill, term=DualSpaceConfig(), checkpoint_every=2)
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    resume = str(tmp_path / "killed" / "checkpoint-2")
    again, after = _run(tmp_path / "killed", resume=resume, checkpoint_every=2)
    assert _curve(after) == pytest.approx(_curve(reports[2:]), rel=1e-6)
    for name, tensor in _projector(again).items():
        assert torch.equal(tensor, _projector(whole)[name])


def test_projectors_are_saved_beside_the_student_and_have_a_rate_of_their_own(tmp_path: Path) -> None:
    moved = []
    for rate in (1e-3, 1e-1):
        term = DualSpaceConfig(projector_learning_rate=rate)
        start = _projector(span_trainer(tmp_path / "start", on_step=lambda report: None, term=term))
        trainer, _ = _run(tmp_path / str(rate), term=term, steps=1)
        after = _projector(trainer)
        # the first step of Adam is as long as the learning rate
        moved.append(max(float((after[name] - tensor).abs().max()) for name, tensor in start.items()))
    assert moved == pytest.approx([1e-3, 1e-1], rel=1e-3)
    detach(trainer.model, folder=tmp_path)
    saved = load_file(tmp_path / FILE)
    assert {name.split(".", 1)[1] for name in saved} == set(after)
    assert all(torch.equal(saved[f"dual_space.{name}"], tensor) for name, tensor in after.items())


@pytest.mark.slow
def test_two_processes_give_the_curve_of_one(tmp_path: Path) -> None:
    two = in_processes("tests.training.span_runs", tmp_path / "two", "2", "dual_space")  # with accumulation too
    _, reports = _run(tmp_path / "one")
    for a, b in zip(reports, two["reports"], strict=True):
        assert b["loss"] == pytest.approx(a.loss, rel=1e-4)
        assert b["grad_norm"] == pytest.approx(a.grad_norm, rel=1e-3)
        assert b["terms"]["dual_space"] == pytest.approx(list(a.terms["dual_space"]), rel=1e-4)

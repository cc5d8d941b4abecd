"""Projectors learn with the student, are checkpointed with it, and are no part of what is exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from distillab.config.layer_terms import HiddenStatesConfig
from distillab.config.run import RunRecipe
from distillab.config.terms import CrossEntropyConfig
from distillab.config.training import TrainingConfig
from distillab.data.collation import Collator, TokenDataset
from distillab.models.structure import model_shape
from distillab.objectives import build_objective
from distillab.runs.run import execute
from distillab.training.arguments import training_arguments
from distillab.training.projectors import FILE, attached, detach
from distillab.training.trainer import DistillationTrainer
from tests.training.conftest import VOCABULARY, ragged_split, teacher, tiny_llama


def _trainer(folder: Path, hidden: HiddenStatesConfig, **settings: Any) -> DistillationTrainer:
    config = TrainingConfig(**{"steps": 2, "batch_size": 4, "learning_rate": 1e-3, "device": "cpu", **settings})
    student, source, split = tiny_llama(0), teacher(), ragged_split(4)
    objective = build_objective(
        (CrossEntropyConfig(), hidden),
        shared_width=VOCABULARY,
        student=model_shape(student),
        teacher=model_shape(source.model),
    )
    return DistillationTrainer(
        model=student,
        args=training_arguments(config, folder=folder, seed=0),
        rows=TokenDataset(split),
        collator=Collator(0),
        objective=objective,
        teacher=source,
        row_names=[example.origin for example in split.examples],
        batch_size=4,
        on_step=lambda report: None,
    )


def _projector(trainer: DistillationTrainer) -> torch.Tensor:
    (projector,) = attached(trainer.model).values()
    (parameter,) = projector.parameters()
    return parameter


def test_a_projector_learns_and_is_taken_out_and_saved_beside_the_student(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path / "checkpoints", HiddenStatesConfig(projector="linear"))
    before = _projector(trainer).detach().clone()
    trainer.train()
    after = _projector(trainer).detach().clone()
    assert not torch.equal(before, after)
    names = {name for name, _ in tiny_llama(0).named_parameters()}
    assert {name for name, _ in trainer.model.named_parameters()} > names
    detach(trainer.model, folder=tmp_path)
    assert {name for name, _ in trainer.model.named_parameters()} == names
    (saved,) = load_file(tmp_path / FILE).values()
    assert torch.equal(saved, after)


def test_a_rate_of_its_own_moves_the_projector_alone(tmp_path: Path) -> None:
    fast = _trainer(tmp_path / "fast", HiddenStatesConfig(projector="linear", projector_learning_rate=1e-2), steps=1)
    usual = _trainer(tmp_path / "usual", HiddenStatesConfig(projector="linear"), steps=1)
    moved = []
    for trainer in (fast, usual):
        before = _projector(trainer).detach().clone()
        trainer.train()
        moved.append(float((_projector(trainer).detach() - before).abs().max()))
    # the first step of Adam is as long as the learning rate
    assert abs(moved[0] - 1e-2) < 1e-4
    assert abs(moved[1] - 1e-3) < 1e-5
    for a, b in zip(fast.model.model.parameters(), usual.model.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_an_exported_student_is_a_plain_one(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    values = {key: value for key, value in tiny_world.items() if key != "seeds"}
    terms = [{"kind": "cross_entropy"}, {"kind": "hidden_states", "projector": "linear"}]
    output = tmp_path / "run"
    execute(RunRecipe(**values, method="hidden_states", terms=terms, output=str(output)))
    exported = load_file(output / "student" / "model.safetensors")
    assert not [name for name in exported if "projector" in name]
    assert (output / FILE).exists()

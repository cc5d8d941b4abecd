"""Run in processes by `test_parallel`: some steps of a tiny student, divided or not; process 0 writes what came out."""

from __future__ import annotations

import dataclasses
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, TrainerCallback

from distillab.config.layer_terms import AttentionRelationsConfig, HiddenStatesConfig
from distillab.config.parallel import ParallelConfig
from distillab.config.student import AdapterConfig
from distillab.config.teacher import TeacherConfig
from distillab.config.terms import CrossEntropyConfig, TermConfig, TokenDivergenceConfig
from distillab.config.training import TrainingConfig
from distillab.data.collation import Collator, TokenDataset
from distillab.models.adapters import add_adapter
from distillab.models.loading import load_model
from distillab.models.structure import model_shape
from distillab.objectives import build_objective
from distillab.teachers.local import LocalTeacher, load_local
from distillab.training.arguments import training_arguments
from distillab.training.step_report import StepReport
from distillab.training.trainer import DistillationTrainer
from tests.training.conftest import VOCABULARY, ragged_split
from tests.training.two_processes import leave

CPU = torch.device("cpu")
STEPS = 4
FSDP, TENSOR = ParallelConfig(fsdp=2), ParallelConfig(tensor=2)
CASES: dict[str, tuple[ParallelConfig | None, ParallelConfig | None, bool]] = {
    "plain": (None, None, False),
    "plain, terms of a tensor-parallel teacher": (None, None, False),
    "replicated groups": (ParallelConfig(replicate=2), None, False),
    "student": (FSDP, None, False),
    "student and teacher": (FSDP, FSDP, False),
    "tensor-parallel teacher": (None, TENSOR, False),
    "student and tensor-parallel teacher": (FSDP, TENSOR, False),
    "teacher by FSDP2 and tensor": (None, ParallelConfig(fsdp=2, tensor=2), False),
    "plain with adapters": (None, None, True),
    "adapters on a divided student": (FSDP, FSDP, True),
}


def terms_of(case: str) -> tuple[TermConfig, ...]:
    """Every kind of term, with a projector that learns and a weight that is measured."""
    # a tensor-parallel teacher does not give attention
    relations = () if "tensor" in case else (AttentionRelationsConfig(weight="balanced"),)
    return (
        CrossEntropyConfig(weight=0.5),
        TokenDivergenceConfig(weight=0.5),
        HiddenStatesConfig(projector="linear", weight=0.1 if relations else "balanced"),
        *relations,
    )


class Gradients(TrainerCallback):
    """Keep the gradients of the first step."""

    def __init__(self) -> None:
        self.found: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.found:
            model = kwargs["model"]
            self.found = {name: whole(p.grad).clone() for name, p in model.named_parameters() if p.grad is not None}


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def models(folder: Path, case: str) -> tuple[PreTrainedModel, LocalTeacher]:
    of_student, of_teacher, adapted = CASES[case]
    student = load_model(
        str(folder / "student"), dtype="float32", device=CPU, revision=None, role="student", parallel=of_student
    )
    if adapted:
        student = add_adapter(student, AdapterConfig(rank=4), seed=0)
    settings = TeacherConfig(path=str(folder / "teacher"), parallel=of_teacher)
    return student, load_local(settings, student_device=CPU, template_sha256="0")


def trainer_of(
    folder: Path, case: str, terms: tuple[TermConfig, ...], *, stop_after: int
) -> tuple[DistillationTrainer, list[StepReport]]:
    PartialState(cpu=True)
    reports: list[StepReport] = []
    student, source = models(folder.parent, case)
    config = TrainingConfig(
        steps=STEPS, batch_size=8, microbatch_size=2, learning_rate=1e-3, checkpoint_every=2, device="cpu"
    )
    split = ragged_split(12)

    def on_step(report: StepReport) -> None:
        reports.append(report)
        if report.step == stop_after:
            raise KeyboardInterrupt

    trainer = DistillationTrainer(
        model=student,
        args=training_arguments(config, folder=folder / "checkpoints", seed=0),
        rows=TokenDataset(split),
        collator=Collator(0),
        objective=build_objective(
            terms, shared_width=VOCABULARY, student=model_shape(student), teacher=source.identity.shape
        ),
        teacher=source,
        row_names=[example.origin for example in split.examples],
        batch_size=8,
        on_step=on_step,
    )
    return trainer, reports


def main(folder: Path, case: str, stop_after: int, resume: str | None) -> None:
    trainer, reports = trainer_of(folder, case, terms_of(case), stop_after=stop_after)
    gradients = Gradients()
    trainer.add_callback(gradients)
    with suppress(KeyboardInterrupt):
        trainer.train(resume_from_checkpoint=resume)
    model = trainer.model
    assert model is not None
    weights = {name: whole(p) for name, p in model.named_parameters() if p.requires_grad}
    if trainer.args.process_index == 0:
        save_file(gradients.found, folder / "gradients.safetensors")
        save_file(weights, folder / "weights.safetensors")
    parts = sum(isinstance(p, DTensor) for p in model.parameters())
    result = {"reports": [dataclasses.asdict(report) for report in reports], "parts": parts}
    leave(folder, {"world": trainer.args.world_size, **result})


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), *(sys.argv[4:] or [None]))

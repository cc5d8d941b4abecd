"""Run in processes by `test_divided`: an evaluation with answers; process 0 writes every figure and every row."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import AutoModelForCausalLM

from distillab.config.data import DataConfig, HeldOutConfig, SourceConfig
from distillab.config.evaluation import EvaluationConfig, EvaluationTask
from distillab.data.reading import load_reader
from distillab.data.splits import load_examples
from distillab.evaluation.likelihood import SharedTeacher
from distillab.evaluation.protocol import evaluate
from distillab.processes import Processes
from distillab.records import TeacherProvenance
from distillab.runs.held_out import held_out_for
from distillab.teachers import LocalTeacher
from tests.evaluation.test_tasks import PACKAGES
from tests.training.two_processes import leave

PROVENANCE = TeacherProvenance(name="t", weights_sha256="0", parameters=1, dtype="float32", template_sha256="0")


def main(folder: Path, materials: Path, rows: int, tasks: tuple[EvaluationTask, ...]) -> None:
    PartialState(cpu=True)
    models = materials / "models"
    student, teacher = (
        AutoModelForCausalLM.from_pretrained(models / name, dtype=torch.float32).eval()
        for name in ("llama2xs-tok512", "stories260K-tok512")
    )
    reader = load_reader(str(models / "stories260K-tok512"), revision=None, template="auto", kind="text", max_tokens=96)
    source = SourceConfig(path=str(materials / "text" / "tinystories" / "stories_dev.jsonl"), limit=20)
    splits = load_examples(DataConfig(train=source, held_out=HeldOutConfig(fraction=0.5)))
    forwards: list[int] = []
    student.register_forward_hook(lambda *_: forwards.append(1))
    result = evaluate(
        student,
        held_out_for(reader, splits.train[:rows]),
        EvaluationConfig(rows=rows, generate_rows=rows, max_new_tokens=8, batch_size=2, tasks=tasks),
        reader=reader,
        shared=SharedTeacher(LocalTeacher(teacher, PROVENANCE), 512),
        label="it",
        processes=Processes.current(),
    )
    scores = {field.name: getattr(result.scores, field.name) for field in fields(result.scores)}
    passes = Processes.current().joined(torch.tensor([len(forwards)]))
    leave(
        folder,
        {
            "record": result.record.model_dump(mode="json"),
            "scores": {name: column.tolist() for name, column in scores.items() if isinstance(column, torch.Tensor)},
            "answers": result.answers,
            "ids": result.written.ids,
            "own": result.own,
            "passes": passes.tolist(),
        },
    )


if __name__ == "__main__":
    sys.path.append(str(PACKAGES))
    paths = tuple(EvaluationTask(path=path) for path in sys.argv[4:])
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), paths)

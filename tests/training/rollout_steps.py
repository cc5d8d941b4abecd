"""One step of a whole recipe whose student writes, with the rows that it read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from distillab.config.run import RunRecipe
from distillab.runs.inputs import RunInputs, load_inputs
from distillab.runs.several import open_teacher
from distillab.runs.student import load_student
from distillab.runs.student_answers import rollout_for
from distillab.runs.training import objective_for, trainer_for
from distillab.runs.training_data import TrainingData, training_data
from distillab.training.step_report import StepReport

OWN = {"from": "student", "max_new_tokens": 12}


def inputs_of(tiny_world: dict[str, Any], output: Path, **changes: Any) -> RunInputs:
    values = {key: value for key, value in tiny_world.items() if key != "seeds"}
    settings = {"method": "on_policy", "answers": OWN, **changes}
    training = {**values["training"], "steps": 1, **settings.pop("training", {})}
    return load_inputs(RunRecipe(**{**values, **settings, "training": training, "output": str(output)}))


def one_step(
    inputs: RunInputs, folder: Path, *, data: TrainingData | None = None
) -> tuple[torch.Tensor, StepReport, list[Any]]:
    """The parameters after one step, its report, and the rows that it read, in their order."""
    data = data or training_data(inputs, inputs.train)
    student, reports, read = load_student(inputs), [], []
    source = open_teacher(inputs).for_terms(inputs.train)

    def collated(rows: Any) -> Any:
        read.extend(rows)
        return data.collator(rows)

    recorded = replace(data, collator=collated)
    trainer = trainer_for(
        inputs,
        student,
        source,
        recorded,
        rollout=rollout_for(inputs, student, recorded),
        objective=objective_for(inputs, student, source, data.transport),
        checkpoints=folder,
        on_step=reports.append,
    )
    trainer.train()
    flat = torch.cat([p.detach().flatten() for p in student.parameters()])
    return flat, reports[0], read[-inputs.recipe.training.batch_size :]

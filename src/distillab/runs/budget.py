"""The budget of a run in tokens or operations: what plain fine-tuning uses in the recipe's steps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

from transformers import PreTrainedModel

from distillab.config.run import RunRecipe
from distillab.config.training import BudgetConfig, TrainingConfig
from distillab.data.encoding import EncodedRow
from distillab.errors import ConfigError
from distillab.models.loading import load_config
from distillab.models.operations import forward_operations
from distillab.records import AnswerStoreCounts, RunRecord, TeacherProvenance
from distillab.runs.inputs import RunInputs
from distillab.training.sampling import StepSampler
from distillab.training.spending import Spending, Used


def _in_tokens(used: Used) -> float:
    return used.student + used.generated + used.teacher


def budget_of_sft(
    rows: Sequence[EncodedRow], training: TrainingConfig, *, unit: Literal["tokens", "flops"], seed: int
) -> BudgetConfig:
    """Return what the student reads in plain fine-tuning, counted on the rows that its steps draw."""
    draws = training.steps * training.batch_size
    drawn = [rows[row] for row in StepSampler(rows=len(rows), draws=draws, seed=seed, batch_size=training.batch_size)]
    scored = sum(int(row.answer_mask[1:].sum()) for row in drawn)
    return BudgetConfig(unit=unit, read_tokens=sum(map(len, drawn)), scored_tokens=scored)


def passes(recipe: RunRecipe) -> float:
    """Return the forward passes that a training step costs: a backward pass is two, one of them for the weights."""
    backward = 2.0 if recipe.student.adapter is None else 1.0
    return 1.0 + backward + recipe.training.gradient_checkpointing


def spending_for(
    inputs: RunInputs,
    student: PreTrainedModel,
    *,
    teacher: TeacherProvenance | None,
    answers: AnswerStoreCounts | None,
    first: RunRecord | None,
) -> Spending | None:
    """Return the budget of a run; None where it is a number of steps.

    The teacher's answers are used before the first step, in every run that reads them.

    Args:
        teacher: that was read. answers: the counts of its answers, if the run trains on them.
        first: the first of two stages, which have one budget.
    Raises:
        ConfigError: the teacher's answers alone are more than the budget.
    """
    budget, recipe = inputs.recipe.training.budget, inputs.recipe
    if budget is None:
        return None
    known = first is not None and first.answers is not None
    read, generated = (0, 0) if answers is None or known else (answers.teacher_tokens, answers.generated_tokens)
    if budget.unit == "tokens":
        amount, before, of = float(budget.read_tokens), float(read), _in_tokens
    else:
        by_student = partial(forward_operations, student.config, student.num_parameters())
        by_teacher: partial[float] | None = None
        if teacher is not None and recipe.resolved().access != "none":
            spec = inputs.require_teacher().spec
            config = load_config(spec.config, revision=spec.revision)
            by_teacher = partial(forward_operations, config, teacher.parameters)
        amount = passes(recipe) * by_student(tokens=budget.read_tokens, scored=budget.scored_tokens)
        before = by_teacher(tokens=read, scored=generated) if by_teacher is not None else 0.0

        def of(used: Used) -> float:
            taught = (
                by_teacher(tokens=used.teacher, scored=used.scored) if by_teacher is not None and used.teacher else 0.0
            )
            return (
                passes(recipe) * by_student(tokens=used.student, scored=used.scored)
                + by_student(tokens=used.generated, scored=used.written)
                + taught
            )

    if first is not None and first.cost.budget_spent is not None:
        part = BudgetConfig.model_validate(first.config["training"]["budget"])
        before += first.cost.budget_spent * amount * part.read_tokens / budget.read_tokens
    if before >= amount:
        raise ConfigError(
            "What comes before training, such as the teacher's answers, alone takes the whole budget of the run.",
            where=recipe.name,
            facts=[f"budget: {amount:,.4g} {budget.unit}", f"before the first step: {before:,.4g}"],
            fix="raise training.steps, which is the budget of sft, or set budget: steps",
        )
    return Spending(amount, of, recipe.training.steps, before)

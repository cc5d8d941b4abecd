"""`dl.Study`: `distillab compare`, for objects in memory too."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from distillab.api.given import Model, Rows, Teacher
from distillab.api.recipe import RecipeBuilder, Settings, quiet
from distillab.cli.console import report_so_far
from distillab.cli.preflight import checked_first
from distillab.config.study import ArmConfig, StudyRecipe
from distillab.errors import ConfigError, DataError
from distillab.records import RESULTS, EvaluationRecord, StudyResults, read_results
from distillab.report.build import write_report
from distillab.study.study import Study as Runner

if TYPE_CHECKING:
    import pandas


class Study:
    """Methods × seeds on the same rows, under one budget: the study that `distillab compare` makes.

        study = dl.Study(student=s, teacher=t, train=rows, arms=["sft", "logits"], seeds=[0, 1, 2], steps=600).run()
        study.table()

    Args:
        student, teacher, train, held_out, steps, batch_size, learning_rate, settings: as of `distil`; settings by
            their path in a study's recipe.
        arms: names of methods, or recipes' arms, {"name": "reverse", "method": "logits", "terms": [...]}; "sft" is
            one of them, as every other is compared with it.
        seeds: each arm is run once with each.
        output: the study's folder.
    Raises:
        ConfigError: a setting, or an object of another kind; several workers and objects in memory.
    """

    def __init__(
        self,
        *,
        student: Model,
        teacher: Teacher,
        train: Rows,
        output: str | Path,
        held_out: Rows | float | None = None,
        arms: Sequence[str | dict[str, Any] | ArmConfig] = ("sft", "seqkd", "logits"),
        seeds: Sequence[int] = (0, 1, 2),
        steps: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        settings: Settings | None = None,
    ) -> None:
        self._builder = builder = RecipeBuilder()
        builder.student(student)
        builder.teacher(teacher)
        builder.train(train)
        builder.held_out(held_out)
        arguments = {
            "arms": list(arms),
            "seeds": list(seeds),
            "training.steps": steps,
            "training.batch_size": batch_size,
            "training.learning_rate": learning_rate,
            "output": str(output),
        }
        self.recipe: StudyRecipe = builder.build(StudyRecipe, arguments, settings, where="dl.Study")
        if builder.names and self.recipe.workers > 1:
            raise ConfigError(
                "Workers are separate processes, and cannot read objects of this one.",
                facts=[f"in memory: {', '.join(builder.names)}", f"workers: {self.recipe.workers}"],
                fix="leave workers out, or give paths",
            )

    def run(self, *, check: bool = True) -> Study:
        """Run all unfinished runs. The report in the study's folder is written again as runs finish.

        Args:
            check: check pair, data and recipe first with the doctor, as `distillab compare` does.
        Returns:
            The study itself.
        Raises:
            TokenizerMismatch: the pair does not allow an arm's method.
            ConfigError: the doctor found an error, or the folder holds another study.
        """
        with self._builder.held(), quiet():
            runner = Runner(
                self.recipe,
                reproduce=f"dl.Study(…).run(), with the settings of {self.recipe.output}/study.json",
                on_results=report_so_far(Path(self.recipe.output)),
            )
            try:
                runner = checked_first(runner, no_doctor=not check)
            except typer.Exit as found:
                raise ConfigError(
                    "The doctor found an error, so nothing was trained.",
                    where=self.recipe.output,
                    fix="see the fixes above; .run(check=False) runs without these checks",
                ) from found
            write_report(runner.run(), Path(self.recipe.output))
        return self

    @property
    def results(self) -> StudyResults:
        """The results, `results.json`.

        Raises:
            DataError: the study has not run.
        """
        path = Path(self.recipe.output) / RESULTS
        if not path.is_file():
            raise DataError("The study has no results yet.", where=str(path), fix="call run() first")
        return read_results(path)

    def table(self) -> pandas.DataFrame:
        """Return one row for each model: name, role, method, seeds, each metric's mean, the difference to SFT.

        `against_sft`, `against_sft_low` and `against_sft_high` are held-out nats per token minus SFT's, with the paired
        95 % interval; below zero is better. `likelihood_gap_closed`, `fidelity_gap_closed` and `task_gap_closed` are
        shares of the gap between SFT (0) and the teacher (1). NaN: not measured.
        """
        import pandas

        results = self.results
        rows: list[dict[str, Any]] = [
            {"name": point.name, "role": point.role, **_means([point.evaluation])} for point in results.baselines
        ]
        for arm in results.arms:
            row = {"name": arm.name, "role": "student", "method": arm.method, "seeds": len(arm.seeds)}
            row |= _means(arm.evaluations)
            if (difference := arm.against_sft) is not None:
                row |= {
                    "against_sft": difference.mean,
                    "against_sft_low": difference.low,
                    "against_sft_high": difference.high,
                }
            row |= {
                f"{one.metric if one.family == 'benchmark' else one.family}_gap_closed": one.recovered.share
                for one in arm.comparisons
                if one.recovered is not None
            }
            rows.append(row)
        return pandas.DataFrame(rows).set_index("name")

    def report(self) -> Path:
        """Write report.md and report.html, and return the path of report.html."""
        return write_report(self.results, Path(self.recipe.output))[1]


def _means(evaluations: Sequence[EvaluationRecord]) -> dict[str, float]:
    names = [metric.name for metric in evaluations[0].metrics]
    columns = {name: [evaluation.value(name) for evaluation in evaluations] for name in names}
    known = {name: [value for value in values if value is not None] for name, values in columns.items()}
    return {name: statistics.fmean(values) for name, values in known.items() if len(values) == len(evaluations)}

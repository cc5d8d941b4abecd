"""What a study consists of: its arms and seeds, the inputs of their runs, and where each of them is kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Self

from distillab.config.run import RunRecipe
from distillab.config.study import ArmConfig, StudyRecipe
from distillab.config.teacher import TeacherConfig
from distillab.config.training import BudgetConfig
from distillab.errors import ConfigError
from distillab.records import TokenizerContract
from distillab.runs.budget import budget_of_sft
from distillab.runs.dates import dated
from distillab.runs.folder import RECORD
from distillab.runs.inputs import RunInputs, load_inputs
from distillab.runs.signals import require_given
from distillab.runs.training_data import MakeCollator
from distillab.study.caches import StudyCaches
from distillab.study.order import OneRun
from distillab.study.teachers import PartArm, arm_of_each_teacher, only_teacher, require_distinct
from distillab.teachers.spec import teacher_name
from distillab.terminal import plural


@dataclass
class StudyPlan:
    """The arms, seeds and teachers of one study.

    Args:
        recipe: the study.
        collators: arm name -> its collator, instead of the usual one; such an arm is a shown failure.
        needs_weights: False: it is estimated, and not run.
    """

    recipe: StudyRecipe
    collators: dict[str, MakeCollator] = field(default_factory=dict, kw_only=True)
    needs_weights: bool = field(default=True, kw_only=True)
    _loaded: dict[str, RunInputs] = field(default_factory=dict, kw_only=True)
    _budgets: dict[int, BudgetConfig] = field(default_factory=dict, kw_only=True)  # seed -> what its run of SFT uses

    def __post_init__(self) -> None:
        self.recipe = dated(self.recipe)  # all arms use one date
        results = [arm.name for arm in self.recipe.arms if arm.name in self.collators and not arm.shown_failure]
        if results:
            raise ConfigError(
                "Only a shown failure can have another collator, and these arms have no shown_failure.", facts=results
            )

    def showing_mismatches(self) -> Self:
        """Return the same study, its arms that compare unrelated tokens as shown failures, so that they run."""
        shown = [self.inputs(arm).showing_mismatch().recipe.shown_failure for arm in self.recipe.arms]
        arms = [
            arm.model_copy(update={"shown_failure": label}) for arm, label in zip(self.recipe.arms, shown, strict=True)
        ]
        return replace(self, recipe=self.recipe.model_copy(update={"arms": tuple(arms)}))

    def held_out_line(self) -> str:
        """Return one line: on how many held-out rows every model can be evaluated, and why not more."""
        return self.inputs(self.recipe.arms[0]).held_out_line

    def plan_line(self) -> str:
        """Return one line: how many runs there are, and how many of them are finished."""
        runs, left = self._runs(), len(self._unfinished())
        arms, seeds, training = len(self.recipe.arms), len(self.recipe.seeds), self.recipe.training
        return (
            f"{plural(len(runs), 'run')} ({plural(arms, 'arm')}, {plural(seeds, 'seed')}) of "
            f"{plural(training.steps, 'step')} of {training.batch_size} sequences; {len(runs) - left} finished"
        )

    def inputs(self, arm: ArmConfig, seed: int = 0) -> RunInputs:
        """Return the inputs of one run; rows and tokenizers are loaded once for all arms with the same teacher.

        All arms are evaluated on the same held-out rows: those that fit whole for every teacher of the study.
        """
        if not self._loaded:
            by_teacher: dict[str, RunInputs] = {}
            for other in self.recipe.arms:
                key = self._teacher_key(other)
                if key not in by_teacher:
                    by_teacher[key] = load_inputs(self._run_recipe(other, 0), weights=self.needs_weights)
            common = set.intersection(*(inputs.held_out_keys for inputs in by_teacher.values()))
            made_in = Path(self.recipe.output) / "made"
            self._loaded.update(
                (key, replace(inputs.with_eval_rows(common), made_in=made_in)) for key, inputs in by_teacher.items()
            )
        if isinstance(arm, PartArm):
            (whole,) = (other for other in self.recipe.arms if other.name == arm.name)
            several = self.inputs(whole, seed)
            found = several.alone(arm.part) if arm.every_row else self._part(whole, arm.part, several.recipe)
            return found.with_recipe(found.recipe.model_copy(update={"teacher": arm.teacher}))
        recipe = self._run_recipe(arm, seed)
        if self.recipe.budget != "steps":
            training = recipe.training.model_copy(update={"budget": self._budget(seed)})
            recipe = recipe.model_copy(update={"training": training})
        return self._loaded[self._teacher_key(arm)].with_recipe(recipe)

    def _part(self, arm: ArmConfig, name: str, recipe: RunRecipe) -> RunInputs:
        """Return the inputs of one teacher of an arm; its rows are found once for all arms with the same teachers."""
        part = self._loaded[self._teacher_key(arm)].parts[name]
        evaluation = recipe.evaluation.model_copy(update={"rows": part.recipe.evaluation.rows})
        return part.with_recipe(recipe.of_teacher(name).model_copy(update={"evaluation": evaluation}))

    def _budget(self, seed: int) -> BudgetConfig:
        """Return what a run of SFT uses."""
        if seed not in self._budgets:
            assert self.recipe.budget != "steps"
            (sft,) = (arm for arm in self.recipe.arms if arm.name == "sft")
            rows = self._loaded[self._teacher_key(sft)].train.rows
            self._budgets[seed] = budget_of_sft(rows, self.recipe.training, unit=self.recipe.budget, seed=seed)
        return self._budgets[seed]

    @cached_property
    def caches(self) -> StudyCaches:
        """The caches of the teachers' signals that the runs share."""
        return StudyCaches(self.recipe, self.inputs, frozenset(self.collators))

    def _runs(self) -> list[OneRun]:
        """Return all runs, seed by seed, so that an interrupted study has whole comparisons to look at."""
        return [(arm, seed) for seed in self.recipe.seeds for arm in self.recipe.arms]

    def _unfinished(self) -> list[OneRun]:
        return [(arm, seed) for arm, seed in self._runs() if not (self._folder(arm, seed) / RECORD).exists()]

    def _folder(self, arm: ArmConfig, seed: int) -> Path:
        return Path(self.recipe.output) / "runs" / arm.name / f"seed{seed}"

    def _teacher_of(self, arm: ArmConfig) -> TeacherConfig:
        return only_teacher(self.recipe, arm)

    def _arm_of_each_teacher(self) -> list[ArmConfig]:
        return arm_of_each_teacher(self.recipe)

    def _fingerprints(self) -> dict[str, dict[str, str]]:
        return {arm.name: self.inputs(arm).fingerprints() for arm in self.recipe.arms}

    def _contracts(self) -> list[TokenizerContract]:
        """Return the contract of each pair, in the order of the arms."""
        pairs = [
            view.contract for inputs in self._loaded.values() for view in inputs.each_view if not view.spec.text_only
        ]
        return list({repr(contract): contract for contract in pairs}.values())

    def _arms_of_answers(self, arms: Sequence[ArmConfig]) -> list[ArmConfig]:
        """Return one arm for each store of answers that these arms need, complete or not."""
        first: dict[Path, ArmConfig] = {}
        for arm in arms:
            if arm.resolved().answers == "teacher":
                first.setdefault(self._answers_folder(arm), arm)
        return list(first.values())

    def _require_admitted(self) -> None:
        for arm in self.recipe.arms:
            self.inputs(arm).admit()
            if (first := arm.first_stage(self.recipe.student.init)) is not None:
                self.inputs(first).admit()
            require_given(self.inputs(arm))
        require_distinct([self._teacher_of(arm) for arm in self._arm_of_each_teacher()])

    def _run_recipe(self, arm: ArmConfig, seed: int) -> RunRecipe:
        return self.recipe.run_recipe(arm, seed, str(self._folder(arm, seed)))

    def _teacher_key(self, arm: ArmConfig) -> str:
        names = {"path", "cache", "server", "tokenizer", "revision", "dtype", "adapter", "prompt_column"}
        each = self.recipe.teachers_of(arm).items()
        return json.dumps({name: teacher.model_dump(mode="json", include=names) for name, teacher in each})

    def _answers_folder(self, arm: ArmConfig) -> Path:
        settings = arm.teacher_answers or self.recipe.teacher_answers
        each = self.recipe.teachers_of(arm)
        if len(each) > 1:  # each has a store of its own
            return Path(self.recipe.output) / "answers"
        (teacher,) = each.values()
        text = teacher.model_dump_json(exclude={"measure_full_precision"}) + settings.model_dump_json(
            exclude={"keep_cut_off"}
        )
        text += arm.part if isinstance(arm, PartArm) else ""
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return Path(self.recipe.output) / "answers" / f"{teacher_name(teacher)}-{digest}"

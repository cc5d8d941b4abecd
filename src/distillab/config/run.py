"""The recipe of a run."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, model_validator

from distillab.config.base import FolderText
from distillab.config.cache import CacheConfig
from distillab.config.data import DataConfig
from distillab.config.evaluation import EvaluationConfig
from distillab.config.method_settings import MethodName, MethodSettings, require_method_fits, require_stages_fit
from distillab.config.methods import described
from distillab.config.pruning import with_source
from distillab.config.several_teachers import Teachers, require_teachers
from distillab.config.student import StudentConfig
from distillab.config.teacher import TeacherAnswersConfig, TeacherConfig, TeacherCorrectionConfig
from distillab.config.training import TrainingConfig


class RunRecipe(MethodSettings):
    """`distillab train`: one student, one method, one seed."""

    # `cache` is for `cache build`; training reads teacher.cache, whose content is compared
    no_effect_on_results: ClassVar[frozenset[str]] = frozenset({"output", "cache"})
    name: str = Field(default="run", description="for messages and the record")
    student: StudentConfig = Field(description="the small model that is trained")
    teacher: TeacherConfig | None = Field(
        default=None, description="the model that it learns from; none for plain fine-tuning"
    )
    teachers: Teachers | None = Field(
        default=None, min_length=1, description="several teachers by their names, in place of teacher"
    )
    data: DataConfig = Field(description="rows, template and length")
    method: MethodName = Field(default="sft", description="docs/methods has a page for each")
    teacher_answers: TeacherAnswersConfig = Field(
        default=TeacherAnswersConfig(), description="how the teacher writes answers for sequence-level KD"
    )
    training: TrainingConfig = Field(default=TrainingConfig(), description="budget and optimizer")
    teacher_correction: TeacherCorrectionConfig | None = Field(
        default=None, description="train the teacher on the training rows first; the student learns from that one"
    )
    evaluation: EvaluationConfig = Field(default=EvaluationConfig(), description="how the student is measured")
    cache: CacheConfig | None = Field(
        default=None, description="for `distillab cache build`; training reads teacher.cache"
    )
    seed: int = Field(default=0, description="of the order of the rows and of new weights")
    output: FolderText = Field(default="runs/run", description="folder of the run")

    @model_validator(mode="before")
    @classmethod
    def _student_of_the_teacher(cls, values: Any) -> Any:
        return with_source(values)

    @property
    def each_teacher(self) -> dict[str, TeacherConfig]:
        """The teachers by their names; a single one has the name ""."""
        if self.teachers is not None:
            return {name: one.alone for name, one in self.teachers.items()}
        return {} if self.teacher is None else {"": self.teacher}

    @property
    def teacher_weights(self) -> dict[str, float]:
        """The weights of a mixture; empty where there is none."""
        return {name: one.weight for name, one in (self.teachers or {}).items() if one.weight is not None}

    def of_teacher(self, name: str) -> RunRecipe:
        """Return the recipe with one of its several teachers alone."""
        data = self.data.model_copy(update={"teacher_column": None})
        return self.model_copy(update={"teacher": self.each_teacher[name], "teachers": None, "data": data})

    @model_validator(mode="after")
    def _terms_are_written_out(self) -> RunRecipe:
        """Replace a preset by its terms, so that the record and the identity hold the weights."""
        object.__setattr__(self, "terms", self.terms_for(self.student.init))
        object.__setattr__(self, "answers", self.written or self.answers)
        return self

    @property
    def staged(self) -> tuple[RunRecipe, RunRecipe] | None:
        """The recipes of the two stages, whose steps or budgets together are the run's; None: there is one stage."""
        first = self.first_stage(self.student.init)
        if first is None or self.warm_start is None:
            return None
        share, whole, rate = self.warm_start.share, self.training, self.warm_start.learning_rate
        steps = min(max(1, round(share * whole.steps)), whole.steps - 1)

        def training(steps: int, **changes: Any) -> TrainingConfig:
            return whole.model_copy(update={"steps": steps, "warmup_steps": min(steps, whole.warmup_steps), **changes})

        budget = None if whole.budget is None else whole.budget.part(share)
        begins = training(steps, budget=budget, learning_rate=rate or whole.learning_rate)
        output = f"{self.output}/warm_start"
        return (
            first.model_copy(update={"training": begins, "name": f"{self.name}, warm start", "output": output}),
            self.model_copy(update={"training": training(whole.steps - steps), "warm_start": None}),
        )

    @model_validator(mode="after")
    def _stages_fit(self) -> RunRecipe:
        require_stages_fit(self, self.student, self.training, teachers=len(self.each_teacher), whose="")
        return self

    @model_validator(mode="after")
    def _teacher_is_there(self) -> RunRecipe:
        require_teachers(self.teacher, self.teachers, self.data.teacher_column)
        if self.resolved().access != "none" and not self.each_teacher:
            name = described(self.method, self.resolved())
            raise ValueError(f"method {name} needs a teacher: add teacher: {{path: …}} or {{cache: …}}")
        return self

    @model_validator(mode="after")
    def _stream_is_read_once(self) -> RunRecipe:
        if self.data.streaming is None:
            return self
        facts = {
            f"method {self.method} (answers: {self.resolved().answers})": self.resolved().answers != "dataset",
            "a term with form: outcomes or measured, which counts them": self.resolved().counts_rows,
            "several teachers": self.teachers is not None,
            "teacher.cache": self.teacher is not None and self.teacher.cache is not None,
            "teacher.prompt_column": self.teacher is not None and self.teacher.prompt_column is not None,
            "teacher_correction": self.teacher_correction is not None,
            "training.group_by_length": self.training.group_by_length,
            "training.budget": self.training.budget is not None,
        }
        if refused := [name for name, given in facts.items() if given]:
            raise ValueError(
                f"this needs all training rows before the first step, which data.streaming does not have: "
                f"{', '.join(refused)}"
            )
        if "steps" not in self.training.model_fields_set:
            raise ValueError("with data.streaming, give training.steps: how many rows there are is not known")
        return self

    @model_validator(mode="after")
    def _training_fits(self) -> RunRecipe:
        require_method_fits(
            self.resolved(),
            self.training,
            self.each_teacher,
            mixed=bool(self.teacher_weights),
            correction=self.teacher_correction,
            whose="",
        )
        if self.teacher_correction is not None and self.resolved().access == "none":
            raise ValueError(f"teacher_correction has no effect: method {self.method} reads nothing of a teacher")
        return self

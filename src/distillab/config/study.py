"""The recipe of a study, and of its arms."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from distillab.config.base import FolderText, Settings
from distillab.config.cache import CacheConfig
from distillab.config.data import DataConfig
from distillab.config.evaluation import EvaluationConfig
from distillab.config.method_settings import MethodName, MethodSettings, require_method_fits, require_stages_fit
from distillab.config.pruning import with_source
from distillab.config.run import RunRecipe
from distillab.config.several_teachers import Teachers, require_teachers
from distillab.config.student import StudentConfig
from distillab.config.teacher import TeacherAnswersConfig, TeacherConfig, TeacherCorrectionConfig
from distillab.config.training import TrainingConfig


class ArmConfig(MethodSettings):
    """One arm of a study."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", description="also a folder name")
    teacher: TeacherConfig | None = Field(default=None, description="default: the study's teacher")
    teacher_correction: TeacherCorrectionConfig | None = Field(default=None, description="default: the study's")
    teacher_answers: TeacherAnswersConfig | None = Field(default=None, description="default: the study's")


class StudyRecipe(Settings):
    """`distillab compare`: arms × seeds under one budget."""

    no_effect_on_results: ClassVar[frozenset[str]] = frozenset({"output", "workers", "gpus_per_run", "title"})
    title: str = Field(default="What does each level of access to the teacher buy?", description="of the report")
    student: StudentConfig = Field(description="the small model that is trained")
    teacher: TeacherConfig | None = Field(default=None, description="the model that it learns from")
    teachers: Teachers | None = Field(
        default=None, min_length=1, description="several teachers by their names, in place of teacher"
    )
    data: DataConfig = Field(description="rows, template and length")
    arms: tuple[ArmConfig, ...] = Field(
        default=("sft", "seqkd", "logits"),
        validate_default=True,
        description="what is compared: methods, or methods with their own settings",
    )
    fixed_data_twin: bool = Field(
        default=True,
        description="beside every arm whose student writes answers itself: the same terms on stored answers, as the "
        "arm NAME_fixed, unless the study has one",
    )
    seeds: tuple[int, ...] = Field(
        default=(0, 1, 2), min_length=1, description="each arm is trained once with each; intervals need several"
    )
    budget: Literal["steps", "tokens", "flops"] = Field(
        default="steps",
        description="what is equal for all arms: optimizer steps; or what SFT uses in training.steps of them, in "
        "tokens that student and teacher read and write, or in floating-point operations",
    )
    teacher_answers: TeacherAnswersConfig = Field(
        default=TeacherAnswersConfig(), description="how the teacher writes answers for sequence-level KD"
    )
    training: TrainingConfig = Field(
        default=TrainingConfig(), description="budget and optimizer, the same for every arm"
    )
    teacher_correction: TeacherCorrectionConfig | None = Field(default=None, description="of every arm's teacher")
    evaluation: EvaluationConfig = Field(default=EvaluationConfig(), description="how every model is measured")
    teacher_signals: Literal["cached", "online"] = Field(
        default="cached",
        description="cached: each teacher runs over the rows once, and all runs read its cache; online: every run "
        "loads the teacher and runs it at every step",
    )
    cache: CacheConfig = Field(default=CacheConfig(), description="how teacher signals are stored")
    workers: int = Field(
        default=1,
        ge=1,
        description="runs at the same time, each in its own process: with its share of the CPUs, or OMP_NUM_THREADS",
    )
    gpus_per_run: float | None = Field(
        default=None,
        ge=0,
        description="with --engine ray: GPUs that a run, a teacher or a share of a cache is given, 0.5 for two on one; "
        "default: one if the cluster has any",
    )
    output: FolderText = Field(default="runs/study", description="folder of the study and its report")

    @model_validator(mode="before")
    @classmethod
    def _student_of_the_teacher(cls, values: Any) -> Any:
        return with_source(values)

    @field_validator("arms", mode="before", json_schema_input_type=tuple[MethodName | ArmConfig, ...])
    @classmethod
    def _bare_method_names(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [{"name": item, "method": item} if isinstance(item, str) else item for item in value]
        return value

    @model_validator(mode="after")
    def _terms_are_written_out(self) -> StudyRecipe:
        """Replace presets by their terms, so that the records and the identity hold the weights."""
        arms = (
            arm.model_copy(update={"terms": arm.terms_for(self.student.init), "answers": arm.written or arm.answers})
            for arm in self.arms
        )
        object.__setattr__(self, "arms", tuple(arms))
        return self

    @model_validator(mode="after")
    def _rows_are_known(self) -> StudyRecipe:
        if self.data.streaming is not None:
            raise ValueError("data.streaming is for one run: a study's arms share rows, answers and caches")
        return self

    @model_validator(mode="after")
    def _twins_are_there(self) -> StudyRecipe:
        for arm in self.arms if self.fixed_data_twin else ():
            own = arm.resolved().own
            if own is not None and not arm.shown_failure and self.twin_of(arm) is None:
                twin = arm.model_copy(update={"name": f"{arm.name}_fixed", "answers": own.otherwise})
                place = self.arms.index(arm) + 1
                object.__setattr__(self, "arms", (*self.arms[:place], twin, *self.arms[place:]))
        return self

    def twin_of(self, arm: ArmConfig) -> ArmConfig | None:
        """Return the arm with the same terms on stored answers, of one whose student writes answers itself."""
        own = arm.resolved().own
        if own is None:
            return None

        def compared(one: ArmConfig) -> list[Any]:
            settings = (one.teacher, one.teacher_correction, one.teacher_answers, one.shown_failure)
            return [one.terms, one.warm_start, *settings]

        stored = (one for one in self.arms if one.resolved().own is None and one.resolved().answers == own.otherwise)
        return next((one for one in stored if compared(one) == compared(arm)), None)

    @model_validator(mode="after")
    def _arms_are_complete(self) -> StudyRecipe:
        names = [arm.name for arm in self.arms]
        if len(set(names)) != len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(f"two arms have the same name: {', '.join(twice)}")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds has a duplicate seed")
        if "sft" not in names:
            raise ValueError("a study needs the arm sft: every method is compared with it")
        if any(arm.name == "sft" and arm.shown_failure for arm in self.arms):
            raise ValueError("every method is compared with the arm sft, so it cannot be a shown failure")
        return self

    def teachers_of(self, arm: ArmConfig) -> dict[str, TeacherConfig]:
        """Return the teachers of an arm by their names; a single one has the name ""."""
        one = arm.teacher or self.teacher
        return {"": one} if one is not None else {name: each.alone for name, each in (self.teachers or {}).items()}

    @model_validator(mode="after")
    def _training_fits_every_arm(self) -> StudyRecipe:
        require_teachers(self.teacher, self.teachers, self.data.teacher_column)
        if self.teacher is None and self.teachers is None:
            raise ValueError("a study needs teacher: {path: …}, or teachers: {name: {path: …}, …}")
        for arm in self.arms:
            teachers, whose = self.teachers_of(arm), f"arm {arm.name}: "
            require_stages_fit(arm, self.student, self.training, teachers=len(teachers), whose=whose)
            require_method_fits(
                arm.resolved(),
                self.training,
                teachers,
                mixed=arm.teacher is None and self.data.teacher_column is None,
                correction=arm.teacher_correction or self.teacher_correction,
                whose=whose,
            )
            if arm.teacher_correction is not None and arm.resolved().access == "none":
                raise ValueError(f"{whose}teacher_correction has no effect, it reads nothing of a teacher")
        return self

    @model_validator(mode="after")
    def _budget_is_known(self) -> StudyRecipe:
        if self.training.budget is not None:
            raise ValueError("training.budget is set by the study: set budget: tokens or flops")
        served = [one for arm in self.arms for one in self.teachers_of(arm).values() if one.server is not None]
        if self.budget == "flops" and (served or self.teachers is not None):
            raise ValueError(
                "budget: flops needs one teacher whose configuration is here, not several or one behind a server: set "
                "budget: tokens"
            )
        return self

    @model_validator(mode="after")
    def _teachers_are_read_once(self) -> StudyRecipe:
        if self.teacher_signals == "online":
            for teacher in (one for arm in self.arms for one in self.teachers_of(arm).values()):
                if teacher.cache is not None:
                    raise ValueError(
                        f"teacher_signals: online never reads the cache {teacher.cache}; remove one of the two"
                    )
                if teacher.server is not None:
                    raise ValueError(
                        f"teacher_signals: online would ask {teacher.server.url} again in every run; remove it, and "
                        "the study asks once"
                    )
        return self

    @model_validator(mode="after")
    def _cache_settings_are_read(self) -> StudyRecipe:
        if self.teacher_signals == "online" and self.cache != CacheConfig():
            raise ValueError("teacher_signals: online makes no cache, so the settings under cache have no effect")
        if any(kind.kind == "text" for kind in self.cache.kinds or ()):
            raise ValueError("cache.kinds: remove text; a study always keeps the answers that its arms train on")
        return self

    def run_recipe(self, arm: ArmConfig, seed: int, output: str) -> RunRecipe:
        """Return the recipe of one run of this study."""
        return RunRecipe(
            name=f"{arm.name}-seed{seed}",
            student=self.student,
            teacher=arm.teacher or self.teacher,
            teachers=None if arm.teacher is not None else self.teachers,
            data=self.data if arm.teacher is None else self.data.model_copy(update={"teacher_column": None}),
            method=arm.method,
            answers=arm.answers,
            terms=arm.terms,
            shown_failure=arm.shown_failure,
            warm_start=arm.warm_start,
            teacher_answers=arm.teacher_answers or self.teacher_answers,
            training=self.training,
            evaluation=self.evaluation,
            seed=seed,
            output=output,
        )

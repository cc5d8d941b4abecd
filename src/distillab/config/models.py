"""The recipe of a run (`RunRecipe`) and of a study (`StudyRecipe`). Unknown keys are errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

import regex
from pydantic import Field, field_validator, model_validator

from distillab.config.base import FolderText, Settings
from distillab.config.cache import CacheConfig
from distillab.config.data import DataConfig
from distillab.config.methods import METHODS, Method
from distillab.config.on_policy import AnswersSetting, StudentAnswersConfig, require_writable
from distillab.config.pruning import with_source
from distillab.config.reasoning import REASONING_MARKERS, ReasoningSettings
from distillab.config.several_teachers import Teachers, require_teachers, require_teachers_fit
from distillab.config.student import Init, StudentConfig
from distillab.config.teacher import TeacherAnswersConfig, TeacherConfig, TeacherCorrectionConfig
from distillab.config.terms import AnyTermConfig, is_balanced
from distillab.errors import near_names


class BudgetConfig(Settings):
    """A budget that is no number of steps: what a student reads in plain fine-tuning."""

    unit: Literal["tokens", "flops"]
    read_tokens: int = Field(ge=1)
    scored_tokens: int = Field(ge=1)

    def part(self, share: float) -> BudgetConfig:
        """Return a share of it."""
        read, scored = (max(1, round(share * tokens)) for tokens in (self.read_tokens, self.scored_tokens))
        return BudgetConfig(unit=self.unit, read_tokens=read, scored_tokens=scored)


class TrainingConfig(Settings):
    """The budget and the optimizer (AdamW)."""

    no_effect_on_results: ClassVar[frozenset[str]] = frozenset({"checkpoint_every", "checkpoint_minutes"})
    steps: int = Field(default=300, ge=1, description="optimizer steps")
    budget: BudgetConfig | None = Field(
        default=None,
        description="a study sets it (its setting budget): the run ends when it has used as much as plain fine-tuning "
        "on so many tokens, and schedules follow the share that is used; default: it ends after `steps`",
    )
    batch_size: int = Field(default=32, ge=1, description="sequences per optimizer step, over all processes")
    microbatch_size: int | None = Field(
        default=None, ge=1, description="sequences per forward pass and process; default: batch_size / processes"
    )
    learning_rate: float = Field(default=5e-4, gt=0)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_steps: int = Field(default=0, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    adam_beta2: float = Field(default=0.999, gt=0, lt=1)
    max_grad_norm: float = Field(default=1.0, gt=0)
    precision: Literal["float32", "bfloat16"] = Field(default="float32", description="bfloat16: autocast")
    gradient_checkpointing: bool = False
    padding_side: Literal["right", "left"] = "right"
    packing: bool = Field(
        default=False,
        description="pack the rows of a microbatch into few sequences of at most data.max_tokens; samples do not "
        "attend to each other, and the loss is the same",
    )
    group_by_length: bool = Field(
        default=False,
        description="group rows of similar length in a step: the same seeded rows in every 32 steps, in another order",
    )
    evaluate_every: int | None = Field(default=None, ge=1, description="steps; default: a tenth of the budget")
    checkpoint_every: int | None = Field(default=None, ge=1, description="steps; default: a quarter of the budget")
    checkpoint_minutes: float = Field(default=10.0, gt=0, description="also make a checkpoint after this many minutes")
    gradient_shares_every: int | None = Field(
        default=None,
        ge=0,
        description="steps between measurements of each term's share of the gradient, which set balanced weights; "
        "measured from the first step if there are several terms; default: a tenth of the steps, at most 50; 0: never",
    )
    device: Literal["auto", "cpu"] = "auto"

    @model_validator(mode="after")
    def _warmup_fits(self) -> TrainingConfig:
        if self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} is larger than steps {self.steps}")
        return self


class EvaluationConfig(ReasoningSettings):
    """The evaluation of every model of a study."""

    rows: int = Field(default=200, ge=1, description="held-out rows for the loss")
    curve_rows: int = Field(default=64, ge=1, description="held-out rows at each point of the learning curve")
    generate_rows: int = Field(default=100, ge=0, description="held-out prompts answered greedily; 0: none")
    max_new_tokens: int = Field(default=128, ge=1)
    batch_size: int = Field(default=32, ge=1)
    value_pattern: str | None = Field(
        default=None,
        description="regular expression with one group that captures the value of an answer, e.g. '#### (.+)'",
    )

    value_kind: Literal["number", "text"] = Field(
        default="number",
        description="how captured values are compared; number: 65,960 = 65960 = $65960.00, other values as text; text: "
        "without punctuation at the ends",
    )

    @model_validator(mode="after")
    def _markers_are_read(self) -> EvaluationConfig:
        if self.reasoning == "keep" and self.reasoning_markers != REASONING_MARKERS:
            raise ValueError("reasoning_markers have no effect without reasoning: strip")
        return self

    @field_validator("value_pattern")
    @classmethod
    def _pattern_has_one_group(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                groups = regex.compile(value).groups
            except regex.error as error:
                raise ValueError(f"not a regular expression: {error}") from error
            if groups != 1:
                raise ValueError(f"needs exactly one group, has {groups}")
        return value


class WarmStartConfig(Settings):
    """A first stage, whose student the run starts from. It has the settings of the run but for these."""

    method: str
    share: float = Field(default=0.5, gt=0, lt=1, description="of the run's optimizer steps, or of its budget")
    learning_rate: float | None = Field(default=None, gt=0, description="default: the run's")

    @field_validator("method")
    @classmethod
    def _method_exists(cls, value: str) -> str:
        return _known_method(value)


def _known_method(value: str) -> str:
    if value not in METHODS:
        raise ValueError(f'no such method: "{value}"; {near_names(value, METHODS)}')
    return value


class _MethodSettings(Settings):
    """Base of the settings of a run and of an arm: a method by name, with replacements for its answers and terms."""

    method: str
    warm_start: WarmStartConfig | None = Field(
        default=None,
        description="train the student by another method first; stages: [seqkd, on_policy] is short for method: "
        "on_policy with warm_start: {method: seqkd}",
    )
    answers: AnswersSetting | None = Field(
        default=None,
        description="replaces the method's choice: dataset, teacher, or {from: student, …}, whose settings replace the "
        "method's",
    )
    terms: tuple[AnyTermConfig, ...] | None = Field(
        default=None, min_length=1, description="replaces the method's terms"
    )
    shown_failure: str | None = Field(
        default=None,
        min_length=1,
        description="what failure is shown on purpose: every record and table marks it as no result, and it can run "
        "where the pair does not allow the method",
    )

    @field_validator("method")
    @classmethod
    def _method_exists(cls, value: str) -> str:
        return _known_method(value)

    @model_validator(mode="before")
    @classmethod
    def _stages(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "stages" not in values:
            return values
        stages, rest = values["stages"], {key: value for key, value in values.items() if key != "stages"}
        if not isinstance(stages, list | tuple) or len(stages) != 2 or {"method", "warm_start"} & set(rest):
            raise ValueError("stages are two, [seqkd, on_policy], in place of method and warm_start")
        first, second = ({"method": one} if isinstance(one, str) else one for one in stages)
        return rest | {"warm_start": first} | second

    def first_stage(self, init: Init) -> Self | None:
        """Return the same with the method of the first stage; None: there is one stage."""
        if self.warm_start is None:
            return None
        method = METHODS[self.warm_start.method]
        first = {"method": self.warm_start.method, "answers": method.own or method.answers, "warm_start": None}
        return self.model_copy(update={**first, "terms": method.terms_for(init)})

    @model_validator(mode="after")
    def _terms_go_together(self) -> _MethodSettings:
        if all(is_balanced(term.weight) for term in self.resolved().terms):
            raise ValueError("at least one term needs a weight that is not balanced, as the reference")
        return self

    def resolved(self) -> Method:
        """Return the method with its replacements applied.

        Raises:
            ValueError: the terms cannot be combined.
        """
        preset = METHODS[self.method]
        own = self.written
        if own is not None:
            answers = own.otherwise
        else:
            answers = self.answers if isinstance(self.answers, str) else preset.answers
        return Method(answers, self.terms or preset.terms, preset.summary, own=own)

    @property
    def written(self) -> StudentAnswersConfig | None:
        """How the student writes answers itself, with what the method sets; None: it writes none."""
        own = METHODS[self.method].own
        if isinstance(self.answers, StudentAnswersConfig):
            return self.answers if own is None else own.replaced(self.answers)
        return own if self.answers is None else None

    def terms_for(self, init: Init) -> tuple[AnyTermConfig, ...]:
        """Return the terms that are given, or those of the method's preset for a student that starts so."""
        return self.terms or METHODS[self.method].terms_for(init)


def _require_stages_fit(arm: _MethodSettings, recipe: RunRecipe | StudyRecipe, *, teachers: int, whose: str) -> None:
    """Check that there can be two stages, if there are; `whose` is the prefix of the message."""
    saved_whole = recipe.student.save_as == "merged"
    if arm.warm_start is not None and (recipe.training.steps < 2 or not saved_whole or teachers > 1):
        raise ValueError(
            f"{whose}two stages need training.steps of 2 or more, a student that is saved whole (save_as: merged), and "
            "one teacher"
        )


def _require_training_fits(
    method: Method, training: TrainingConfig, teachers: Sequence[TeacherConfig], whose: str
) -> None:
    """Check that a method can be trained with these settings; `whose` is the prefix of the message."""
    if method.own is not None:
        require_writable(method.own, training, teachers, whose=whose)
    aligned = [term.kind for term in method.terms if term.tokens == "aligned"]
    if aligned and training.packing:
        raise ValueError(f"{whose}{aligned[0]} uses two tokenisations, and packing supports one: set packing: false")
    balanced = [term.kind for term in method.terms if is_balanced(term.weight)]
    if balanced and training.gradient_shares_every == 0:
        raise ValueError(f"{whose}the balanced weight of {balanced[0]} needs gradient_shares_every of 1 or more")


class ArmConfig(_MethodSettings):
    """One arm of a study."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", description="also a folder name")
    teacher: TeacherConfig | None = Field(default=None, description="default: the study's teacher")
    teacher_correction: TeacherCorrectionConfig | None = Field(default=None, description="default: the study's")
    teacher_answers: TeacherAnswersConfig | None = Field(default=None, description="default: the study's")


class RunRecipe(_MethodSettings):
    """`distillab train`: one student, one method, one seed."""

    # `cache` is for `cache build`; training reads teacher.cache, whose content is compared
    no_effect_on_results: ClassVar[frozenset[str]] = frozenset({"output", "cache"})
    name: str = "run"
    student: StudentConfig
    teacher: TeacherConfig | None = None
    teachers: Teachers | None = Field(
        default=None, min_length=1, description="several teachers by their names, in place of teacher"
    )
    data: DataConfig
    method: str = "sft"
    teacher_answers: TeacherAnswersConfig = TeacherAnswersConfig()
    training: TrainingConfig = TrainingConfig()
    teacher_correction: TeacherCorrectionConfig | None = Field(
        default=None, description="train the teacher on the training rows first; the student learns from that one"
    )
    evaluation: EvaluationConfig = EvaluationConfig()
    cache: CacheConfig | None = Field(
        default=None, description="for `distillab cache build`; training reads teacher.cache"
    )
    seed: int = 0
    output: FolderText = "runs/run"

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
        _require_stages_fit(self, self, teachers=len(self.each_teacher), whose="")
        return self

    @model_validator(mode="after")
    def _teacher_is_there(self) -> RunRecipe:
        require_teachers(self.teacher, self.teachers, self.data.teacher_column)
        if self.resolved().access != "none" and not self.each_teacher:
            raise ValueError(f"method {self.method} needs a teacher: add teacher: {{path: …}} or {{cache: …}}")
        return self

    @model_validator(mode="after")
    def _training_fits(self) -> RunRecipe:
        _require_training_fits(self.resolved(), self.training, list(self.each_teacher.values()), "")
        require_teachers_fit(
            self.resolved(),
            list(self.each_teacher.values()),
            "",
            mixed=bool(self.teacher_weights),
            corrected=self.teacher_correction is not None,
        )
        if self.teacher_correction is not None:
            self.teacher_correction.require_fits(self.teacher, self.training, whose="")
            if self.resolved().access == "none":
                raise ValueError(f"teacher_correction has no effect: method {self.method} reads nothing of a teacher")
        return self


class StudyRecipe(Settings):
    """`distillab compare`: arms × seeds under one budget."""

    no_effect_on_results: ClassVar[frozenset[str]] = frozenset({"output", "workers", "title"})
    title: str = "What does each level of access to the teacher buy?"
    student: StudentConfig
    teacher: TeacherConfig | None = None
    teachers: Teachers | None = Field(
        default=None, min_length=1, description="several teachers by their names, in place of teacher"
    )
    data: DataConfig
    arms: tuple[ArmConfig, ...] = Field(default=("sft", "seqkd", "logits"), validate_default=True)
    fixed_data_twin: bool = Field(
        default=True,
        description="beside every arm whose student writes answers itself: the same terms on stored answers, as the "
        "arm NAME_fixed, unless the study has one",
    )
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    budget: Literal["steps", "tokens", "flops"] = Field(
        default="steps",
        description="what is equal for all arms: optimizer steps; or what SFT uses in training.steps of them, in "
        "tokens that student and teacher read and write, or in floating-point operations",
    )
    teacher_answers: TeacherAnswersConfig = TeacherAnswersConfig()
    training: TrainingConfig = TrainingConfig()
    teacher_correction: TeacherCorrectionConfig | None = Field(default=None, description="of every arm's teacher")
    evaluation: EvaluationConfig = EvaluationConfig()
    teacher_signals: Literal["cached", "online"] = Field(
        default="cached",
        description="cached: each teacher runs over the rows once, and all runs read its cache; online: every run "
        "loads the teacher and runs it at every step",
    )
    cache: CacheConfig = Field(default=CacheConfig(), description="how teacher signals are stored")
    workers: int = Field(default=1, ge=1, description="runs at the same time, each in its own process")
    output: FolderText = "runs/study"

    @model_validator(mode="before")
    @classmethod
    def _student_of_the_teacher(cls, values: Any) -> Any:
        return with_source(values)

    @field_validator("arms", mode="before")
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
            _require_stages_fit(arm, self, teachers=len(self.teachers_of(arm)), whose=f"arm {arm.name}: ")
            _require_training_fits(
                arm.resolved(), self.training, list(self.teachers_of(arm).values()), f"arm {arm.name}: "
            )
            require_teachers_fit(
                arm.resolved(),
                list(self.teachers_of(arm).values()),
                f"arm {arm.name}: ",
                mixed=arm.teacher is None and self.data.teacher_column is None,
                corrected=(arm.teacher_correction or self.teacher_correction) is not None,
            )
            if (correction := arm.teacher_correction or self.teacher_correction) is not None:
                correction.require_fits(arm.teacher or self.teacher, self.training, whose=f"arm {arm.name}: ")
            if arm.teacher_correction is not None and arm.resolved().access == "none":
                raise ValueError(f"arm {arm.name}: teacher_correction has no effect, it reads nothing of a teacher")
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

"""The settings that a run and an arm of a study share: a method, with replacements; and what it goes together with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue

from distillab.config.base import Settings
from distillab.config.methods import METHODS, Method
from distillab.config.on_policy import AnswersSetting, StudentAnswersConfig, require_writable
from distillab.config.several_teachers import require_teachers_fit
from distillab.config.student import Init, StudentConfig
from distillab.config.teacher import TeacherConfig, TeacherCorrectionConfig
from distillab.config.term_base import is_balanced
from distillab.config.terms import AnyTermConfig
from distillab.config.training import TrainingConfig
from distillab.errors import near_names


def _known_method(value: str) -> str:
    if value not in METHODS:
        raise ValueError(f'no such method: "{value}"; {near_names(value, METHODS)}')
    return value


MethodName = Annotated[str, AfterValidator(_known_method), Field(json_schema_extra={"enum": list(METHODS)})]
"""The name of a method."""


class WarmStartConfig(Settings):
    """A first stage, whose student the run starts from. It has the settings of the run but for these."""

    method: MethodName = Field(description="of the first stage")
    share: float = Field(default=0.5, gt=0, lt=1, description="of the run's optimizer steps, or of its budget")
    learning_rate: float | None = Field(default=None, gt=0, description="default: the run's")


class MethodSettings(Settings):
    """Base of the settings of a run and of an arm: a method by name, with replacements for its answers and terms."""

    method: MethodName = Field(description="docs/methods has a page for each")
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

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Describe `stages`, too, which `_stages` replaces."""
        schema = handler.resolve_ref_schema(handler(core))
        stage = {"anyOf": [{"enum": list(METHODS)}, {"type": "object"}]}
        schema["properties"]["stages"] = {
            "type": "array",
            "items": stage,
            "minItems": 2,
            "maxItems": 2,
            "description": "two methods, one after the other, in place of method and warm_start",
        }
        if "method" in schema.get("required", ()):
            schema["required"].remove("method")
        return schema

    def first_stage(self, init: Init) -> Self | None:
        """Return the same with the method of the first stage; None: there is one stage."""
        if self.warm_start is None:
            return None
        method = METHODS[self.warm_start.method]
        first = {"method": self.warm_start.method, "answers": method.own or method.answers, "warm_start": None}
        return self.model_copy(update={**first, "terms": method.terms_for(init)})

    @model_validator(mode="after")
    def _terms_go_together(self) -> MethodSettings:
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


def require_stages_fit(
    arm: MethodSettings, student: StudentConfig, training: TrainingConfig, *, teachers: int, whose: str
) -> None:
    """Check that there can be two stages, if there are.

    Args:
        teachers: how many the arm has.
        whose: the prefix of the message.
    Raises:
        ValueError: there cannot.
    """
    if arm.warm_start is not None and (training.steps < 2 or student.save_as != "merged" or teachers > 1):
        raise ValueError(
            f"{whose}two stages need training.steps of 2 or more, a student that is saved whole (save_as: merged), and "
            "one teacher"
        )


def require_method_fits(
    method: Method,
    training: TrainingConfig,
    teachers: Mapping[str, TeacherConfig],
    *,
    mixed: bool,
    correction: TeacherCorrectionConfig | None,
    whose: str,
) -> None:
    """Check that a method can be trained with these settings and teachers.

    Args:
        teachers: by their names; a single one has the name "".
        mixed: they are a mixture.
        correction: of the single teacher.
        whose: the prefix of the message.
    Raises:
        ValueError: it cannot.
    """
    each = list(teachers.values())
    if method.own is not None:
        require_writable(method.own, training, each, whose=whose)
    aligned = [term.kind for term in method.terms if term.tokens == "aligned"]
    if aligned and training.packing:
        raise ValueError(f"{whose}{aligned[0]} uses two tokenisations, and packing supports one: set packing: false")
    balanced = [term.kind for term in method.terms if is_balanced(term.weight)]
    if balanced and training.gradient_shares_every == 0:
        raise ValueError(f"{whose}the balanced weight of {balanced[0]} needs gradient_shares_every of 1 or more")
    require_teachers_fit(method, each, whose, mixed=mixed, corrected=correction is not None)
    if correction is not None:
        correction.require_fits(teachers.get(""), training, whose=whose)

"""The evaluation settings of a run and of a study."""

from __future__ import annotations

from typing import Literal

import regex
from pydantic import Field, field_validator, model_validator

from distillab.config.base import PathText, Settings
from distillab.config.reasoning import REASONING_MARKERS, ReasoningSettings


class EvaluationTask(Settings):
    """A task of EleutherAI's lm-evaluation-harness, by its name or in a file."""

    task: str | None = Field(
        default=None, min_length=1, description="name of a task, a group or a tag of lm-evaluation-harness"
    )
    path: PathText | None = Field(default=None, description="YAML file of one task in the harness's format")
    limit: int | None = Field(default=None, ge=2, description="the first documents of each task; default: all")
    num_fewshot: int | None = Field(
        default=None, ge=0, description="solved examples before each question; default: as the task has it, else 0"
    )
    chat_template: bool = Field(
        default=False, description="prompts in each model's chat template, solved examples as turns"
    )

    @model_validator(mode="after")
    def _one_source(self) -> EvaluationTask:
        if (self.task is None) is (self.path is None):
            raise ValueError("give the name of a task (task: gsm8k), or a file (path: my_task.yaml)")
        return self

    @property
    def source(self) -> str:
        """Its name or its file."""
        return self.task or self.path or ""


class EvaluationConfig(ReasoningSettings):
    """The evaluation of every model of a study."""

    rows: int = Field(default=200, ge=1, description="held-out rows for the loss")
    curve_rows: int = Field(default=64, ge=1, description="held-out rows at each point of the learning curve")
    generate_rows: int = Field(default=100, ge=0, description="held-out prompts answered greedily; 0: none")
    max_new_tokens: int = Field(default=128, ge=1, description="longest generated answer")
    batch_size: int = Field(default=32, ge=1, description="rows evaluated at once")
    value_pattern: str | None = Field(
        default=None,
        description="regular expression with one group that captures the value of an answer, e.g. '#### (.+)'",
    )

    value_kind: Literal["number", "text"] = Field(
        default="number",
        description="how captured values are compared; number: 65,960 = 65960 = $65960.00, other values as text; text: "
        "without punctuation at the ends",
    )

    tasks: tuple[EvaluationTask, ...] = Field(
        default=(), description="tasks of lm-evaluation-harness for every model; docs/tasks.md"
    )

    @model_validator(mode="after")
    def _tasks_differ(self) -> EvaluationConfig:
        sources = [one.source for one in self.tasks]
        if twice := sorted({source for source in sources if sources.count(source) > 1}):
            raise ValueError(f"evaluation.tasks has {', '.join(twice)} twice")
        return self

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

"""Metrics of one model: each is a record with everything that a table or a report shows of it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from distillab.records.base import Record

PRIMARY = "nats_per_token"
"""The metric that arms are compared by: held-out cross-entropy, in nats per token."""

TASK_SCORES = "task_scores"
"""Of the first held-out line of a model: metric -> its value at each document of the task."""

Family = Literal["likelihood", "fidelity", "task", "benchmark"]
Sample = Literal["held-out rows", "generations", "task documents"]

FAMILIES: dict[Family, str] = {
    "likelihood": "likelihood of the data set’s answers",
    "fidelity": "fidelity to the teacher",
    "task": "task scores of generated answers",
    "benchmark": "tasks of lm-evaluation-harness",
}
"""What a metric is about: what SFT trains, how near the student is to its teacher, how good its own answers are, and
what it scores elsewhere."""

HEADLINES: dict[Family, tuple[str, ...]] = {
    "likelihood": (PRIMARY,),
    "fidelity": ("kl_from_teacher",),
    "task": ("value_match", "rouge_l"),
    "benchmark": (),
}
"""The metric that stands for a family: the first of these that has a value."""


class Metric(Record):
    """One figure of one model. Two models on the same rows are compared by an `Interval`."""

    name: str = Field(description="its key, such as nats_per_token")
    label: str = Field(description="its name in tables")
    family: Family = Field(description="what it is about; see FAMILIES")
    unit: str = Field(description="nats/token, bits, share or score (both 0 to 1), tokens, …")
    direction: Literal["lower", "higher"] | None = Field(description="which values are better; None: neither")
    value: float | None
    missing: str | None = Field(default=None, description="why there is no value")
    n: int = Field(description="over how many of `sample`")
    sample: Sample
    level: Literal["summary", "table", "record"] = Field(
        default="table", description="summary: in the terminal's table and in the report's; table: in the report's"
    )
    meaning: str = Field(description="what it measures, for the report's list of terms")

    @model_validator(mode="after")
    def _value_or_reason(self) -> Metric:
        if (self.value is None) is (self.missing is None):
            raise ValueError("a metric has a value, or a reason why it has none")
        return self


class TaskRecord(Record):
    """A task of lm-evaluation-harness that a model was evaluated on."""

    name: str
    version: str = Field(description="of the task, as its file states it")
    documents: int = Field(description="evaluated")
    num_fewshot: int = Field(description="solved examples before each question")
    sha256: str = Field(description="the harness's task hash: of documents, prompts and targets")
    harness: str = Field(description="version of lm_eval")


class EvaluationRecord(Record):
    """One model under the shared protocol."""

    tokens: int = Field(description="scored tokens of the held-out rows, in the model's tokenizer")
    scored_bytes: int = Field(description="UTF-8 bytes of the text that is scored, without EOS")
    metrics: tuple[Metric, ...]
    tasks: tuple[TaskRecord, ...] = Field(default=(), description="of evaluation.tasks")

    def metric(self, name: str) -> Metric | None:
        """Return the metric of that name; None where it was not measured."""
        return next((metric for metric in self.metrics if metric.name == name), None)

    def value(self, name: str) -> float | None:
        """Return its value; None where it was not measured or has none."""
        metric = self.metric(name)
        return None if metric is None else metric.value

    @property
    def nats_per_token(self) -> float:
        """The primary metric, which every model has.

        Raises:
            KeyError: it was not measured.
        """
        value = self.value(PRIMARY)
        if value is None:
            raise KeyError(PRIMARY)
        return value

    def n(self, sample: Sample) -> int:
        """Return how many held-out rows were scored, or answers generated; 0 where none was."""
        return max((metric.n for metric in self.metrics if metric.sample == sample), default=0)

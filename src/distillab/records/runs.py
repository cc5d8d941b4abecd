"""The records of one run."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from distillab.records.access import AccessLevel
from distillab.records.base import SCHEMA_VERSION, Record
from distillab.records.metrics import EvaluationRecord
from distillab.records.pairing import TokenizerContract
from distillab.records.sources import (
    AnswerStoreCounts,
    CacheUse,
    EncodingCounts,
    ServedCost,
    ServerProbe,
    SpanCounts,
    TeacherProvenance,
    TransportRecord,
)


class EvaluatedModel(Record):
    """A model that a study evaluated without training it: a file of its `baselines`."""

    name: str
    identity: str = Field(description="sha256 of the settings and files that decide its figures")
    files: dict[str, str] = Field(description="sha256 of its held-out figures")
    evaluation: EvaluationRecord
    own: tuple[dict[str, float], ...] = Field(
        default=(), description="where it alone was measured now: own_kl and own_tokens of each generated answer"
    )


class CurvePoint(Record):
    """One held-out measurement during training, with the training loss since the last one."""

    step: int
    train_nats: dict[str, float] = Field(description="mean of each term since the last point, in its own unit")
    held_out_nats_per_token: float
    supervised_tokens: int


class ReferenceLines(Record):
    """Reference values of the loss, in nats per token of the student's vocabulary."""

    uniform_nats: float = Field(description="log V: every token equally likely")
    unigram_nats: float = Field(description="token frequencies of the training answers alone")


class RolloutSample(Record):
    """A training prompt, and what the student answered, with the same random numbers, before and after training."""

    prompt: str
    first: str
    last: str


class RolloutRecord(Record):
    """What the student wrote in training, to learn from it."""

    steps: int = Field(description="over which `first` and `last` are means: a tenth of all")
    first: dict[str, float] = Field(description="figures of the first steps, as in metrics.jsonl")
    last: dict[str, float] = Field(description="the same of the last ones")
    samples: tuple[RolloutSample, ...]


class RunCost(Record):
    """The cost of a run: tokens, time, memory."""

    steps: int
    budget_spent: float | None = Field(
        default=None, description="share of training.budget, above 1 by the last step; None: the budget is steps"
    )
    supervised_tokens: int
    student_tokens: int = Field(description="read in training, prompts included")
    written_tokens: int = Field(default=0, description="that the student wrote in training, to learn from them")
    teacher_tokens: int = Field(
        description="read in training, or read and generated for its answers; 0 if training read a cache"
    )
    wall_s: float = Field(description="of the last session, if the run was resumed")
    answers_s: float | None = Field(
        default=None,
        description="to generate the teacher's answers, once for all runs that read them; None if it read none or "
        "they were made elsewhere",
    )
    served: ServedCost | None = Field(
        default=None, description="of the signals that training read from a server; of answers see the answers' counts"
    )
    peak_rss_bytes: int = Field(description="of the process, which can have done other runs before")


class RunRecord(Record):
    """One finished run: `run.json` of its folder."""

    schema_version: int = SCHEMA_VERSION
    name: str
    arm: str
    method: str
    access: AccessLevel
    seed: int
    identity: str = Field(description="sha256 of the settings and files that decide its figures")
    files: dict[str, str] = Field(default={}, description="sha256 of the student's files and the held-out figures")
    config: dict[str, Any]
    fingerprints: dict[str, str] = Field(description="sha256 of rows and weights")
    contract: TokenizerContract | None
    teacher: TeacherProvenance | None
    servers: tuple[ServerProbe, ...] = Field(default=(), description="what was measured of the teacher's server")
    teacher_correction: RunCost | None = Field(
        default=None, description="to train the teacher on the training rows first; in a study once for all runs"
    )
    answers: AnswerStoreCounts | None = None
    teacher_signals: Literal["none", "online", "cached"] = Field(
        default="online",
        description="where training read the teacher's signals: nowhere, from the teacher, from a cache",
    )
    caches: tuple[CacheUse, ...] = ()
    notes: tuple[str, ...] = Field(default=(), description="what was skipped, and why")
    train_counts: EncodingCounts
    spans: SpanCounts | None = Field(
        default=None, description="how two tokenisations align, for methods that read both"
    )
    transport: TransportRecord | None = Field(
        default=None, description="what the map between both vocabularies was counted on, for terms with such a map"
    )
    held_out_counts: EncodingCounts
    references: ReferenceLines
    evaluation: EvaluationRecord
    curve: tuple[CurvePoint, ...]
    rollout: RolloutRecord | None = Field(default=None, description="None: the student wrote nothing in training")
    cost: RunCost
    warm_start: RunCost | None = Field(default=None, description="of this, the first of two stages")
    environment: dict[str, str]

    @property
    def shown_failure(self) -> str | None:
        """What failure the run shows on purpose; such a run is no result."""
        label: str | None = self.config.get("shown_failure")
        return label

"""What one run leaves behind."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from distillab.records.access import AccessLevel
from distillab.records.base import SCHEMA_VERSION, Record
from distillab.records.metrics import EvaluationRecord
from distillab.records.pairing import TokenizerContract
from distillab.records.sources import AnswerStoreCounts, CacheUse, EncodingCounts, SpanCounts, TeacherProvenance


class JudgedModel(Record):
    """A model that a study judged without training it: a file of its `baselines`."""

    name: str
    identity: str = Field(description="sha256 of the settings and files that decide its figures")
    files: dict[str, str] = Field(description="sha256 of its held-out figures")
    evaluation: EvaluationRecord


class CurvePoint(Record):
    """One held-out measurement during training, and the training loss around it."""

    step: int
    train_nats: dict[str, float] = Field(description="mean of each term since the last point, in its own unit")
    held_out_nats_per_token: float
    supervised_tokens: int


class ReferenceLines(Record):
    """Values against which a loss can be judged, in nats a token of the student's vocabulary."""

    uniform_nats: float = Field(description="log V: knows nothing")
    unigram_nats: float = Field(description="knows only how often each token occurs in the training answers")


class RunCost(Record):
    """What a run used."""

    steps: int
    supervised_tokens: int
    student_tokens: int = Field(description="read in training, prompts included")
    teacher_tokens: int = Field(
        description="read in training, or read and written for its answers; 0 where training read a cache"
    )
    wall_s: float = Field(description="of the last session, where a run was resumed")
    answers_s: float | None = Field(
        default=None,
        description="to write the teacher's answers, once for all runs that read them; None where it read none or "
        "they were made elsewhere",
    )
    peak_rss_bytes: int = Field(description="of the process, which may have done other runs before")


class RunRecord(Record):
    """One finished run: `run.json` of its folder."""

    schema_version: int = SCHEMA_VERSION
    name: str
    arm: str
    method: str
    access: AccessLevel
    seed: int
    demonstrates: str | None = Field(
        default=None, description="set where the run shows a failure on purpose; such a run is no result"
    )
    identity: str = Field(description="sha256 of the settings and files that decide its figures")
    files: dict[str, str] = Field(default={}, description="sha256 of the student's files and the held-out figures")
    config: dict[str, Any]
    fingerprints: dict[str, str] = Field(description="sha256 of rows and weights")
    contract: TokenizerContract | None
    teacher: TeacherProvenance | None
    answers: AnswerStoreCounts | None = None
    teacher_signals: Literal["none", "online", "cached"] = Field(
        default="online", description="what training read of the teacher: nothing, itself, or what it once said"
    )
    caches: tuple[CacheUse, ...] = ()
    notes: tuple[str, ...] = Field(default=(), description="what was left out, and why")
    train_counts: EncodingCounts
    spans: SpanCounts | None = Field(default=None, description="how two tokenisations meet, for methods that read both")
    held_out_counts: EncodingCounts
    references: ReferenceLines
    evaluation: EvaluationRecord
    curve: tuple[CurvePoint, ...]
    cost: RunCost
    environment: dict[str, str]

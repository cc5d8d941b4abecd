"""What a study leaves behind: the report is made from this alone."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from distillab.records.access import AccessLevel
from distillab.records.base import SCHEMA_VERSION, Record
from distillab.records.findings import Investigation
from distillab.records.pairing import TokenizerContract
from distillab.records.runs import CurvePoint, EvaluationRecord, ReferenceLines, RunCost
from distillab.records.sources import AnswerStoreCounts, CacheUse, EncodingCounts, SpanCounts

_ERROR = 0.05


class Interval(Record):
    """A paired difference with its 95 % interval."""

    mean: float
    low: float
    high: float
    p: float | None = Field(
        default=None, description="of no difference, for this comparison alone; None in older records"
    )
    adjusted_p: float | None = Field(
        default=None,
        description="Holm's, over all arms held against SFT; None for a demonstration, and in older records",
    )
    comparisons: int | None = Field(default=None, description="over which adjusted_p is adjusted")

    @property
    def outcome(self) -> Literal["better", "worse", "open"]:
        """What may be claimed at 5 %; of several comparisons by the adjusted p-value. Less is better."""
        if self.low <= 0 <= self.high or (self.adjusted_p is not None and self.adjusted_p >= _ERROR):
            return "open"
        return "better" if self.mean < 0 else "worse"


class EndPoint(Record):
    """A model that was not trained in this study: the undistilled student, a teacher."""

    name: str
    role: Literal["undistilled student", "teacher"]
    evaluation: EvaluationRecord
    note: str | None = None


class ArmResult(Record):
    """One arm over its seeds."""

    name: str
    method: str
    access: AccessLevel
    teacher: str | None
    across_tokenizers: bool = Field(default=False, description="its teacher's ids mean other tokens than the student's")
    demonstrates: str | None = None
    seeds: tuple[int, ...]
    evaluations: tuple[EvaluationRecord, ...]
    curves: tuple[tuple[CurvePoint, ...], ...]
    costs: tuple[RunCost, ...]
    against_sft: Interval | None = Field(
        default=None,
        description="held-out nats a token minus SFT's, paired over seeds and rows; negative is better",
    )


class GenerationSample(Record):
    """One held-out prompt and what each model answers."""

    prompt: str
    reference: str
    answers: dict[str, str]


class StudyResults(Record):
    """The whole of a study: `results.json`. The report is made from this file alone."""

    schema_version: int = SCHEMA_VERSION
    title: str
    question: str
    verdict: str
    budget: str
    references: ReferenceLines
    end_points: tuple[EndPoint, ...]
    arms: tuple[ArmResult, ...]
    samples: tuple[GenerationSample, ...]
    contracts: tuple[TokenizerContract, ...]
    train_counts: tuple[EncodingCounts, ...]
    held_out_counts: EncodingCounts
    spans: tuple[SpanCounts, ...] = Field(default=(), description="how two tokenisations of the training rows meet")
    answer_stores: tuple[AnswerStoreCounts, ...] = ()
    caches: tuple[CacheUse, ...] = Field(default=(), description="what teachers said once, for all runs")
    investigation: Investigation | None = Field(
        default=None, description="what the doctor found before the first run; None in older records"
    )
    reproduce: str
    environment: dict[str, str]
    wall_s: float = Field(description="sum over the runs, some of which may have run side by side")

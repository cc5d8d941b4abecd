"""What one run leaves behind."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from distillab.records.access import AccessLevel
from distillab.records.base import SCHEMA_VERSION, Record
from distillab.records.pairing import TokenizerContract
from distillab.records.sources import AnswerStoreCounts, CacheUse, EncodingCounts, SpanCounts, TeacherProvenance


class LikelihoodMetrics(Record):
    """Teacher-forced figures over held-out answers. `n` counts rows, `tokens` scored tokens."""

    n: int
    tokens: int
    nats_per_token: float
    bits_per_byte: float = Field(
        description="of the scored text without EOS, as lm-evaluation-harness has it; in older records with EOS"
    )
    scored_bytes: int | None = Field(
        default=None, description="UTF-8 bytes of the text that is scored; None in older records"
    )
    eos_nats: float | None = Field(
        default=None,
        description="a token that ends an answer; part of nats_per_token, not of bits_per_byte; None in older records",
    )
    token_accuracy: float
    confidence: float | None = Field(
        default=None, description="mean probability of the likeliest token; None in older records"
    )
    expected_calibration_error: float | None = Field(
        default=None, description="mean distance of confidence and accuracy, in 15 bins of confidence; 0 to 1"
    )
    kl_from_teacher_nats: float | None = Field(
        default=None, description="KL(teacher ‖ student) a token; None where tokens are not shared"
    )
    top1_agreement: float | None = None


class GenerationMetrics(Record):
    """Figures over greedy generations."""

    n: int
    exact_match: float
    normalised_match: float
    value_match: float | None = Field(default=None, description="match of the part that value_pattern captures")
    value_kind: Literal["number", "text"] = Field(
        default="text", description="how values are compared; text in older records"
    )
    rouge_l: float
    rouge_tokenizer: Literal["unicode", "ascii"] = Field(
        default="ascii", description="words of every script; in older records a to z and 0 to 9 alone"
    )
    reasoning: Literal["keep", "strip"] = Field(
        default="keep", description="strip: answers and references are compared without their reasoning"
    )
    stopped_by_eos: float
    mean_tokens: float


class EvaluationRecord(Record):
    """One model, judged by the shared protocol."""

    likelihood: LikelihoodMetrics
    generation: GenerationMetrics | None = None


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
        description="to write the teacher's answers, once for all runs that read them; None where it read none, where "
        "they were made elsewhere, and in older records",
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
    identity: str | None = Field(
        default=None,
        description="sha256 of the settings and files that decide its figures; None: an earlier version made it",
    )
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

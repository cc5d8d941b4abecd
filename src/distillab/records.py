"""What runs, studies and judgements write to disk: plain values, no torch.

A report is made from these records alone. Every file that holds one carries `schema_version`.
Units are in the names: `_nats`, `_s`, `_bytes`, `_tokens`; shares are fractions between 0 and 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from distillab.errors import DataError

SCHEMA_VERSION = 1

AccessLevel = Literal["none", "text", "top_k", "logits", "internals"]
ACCESS_ORDER: tuple[AccessLevel, ...] = ("none", "text", "top_k", "logits", "internals")
Verdict = Literal["identical", "padded", "extended", "different"]


class Record(BaseModel):
    """Base of all records: strict names, immutable, JSON on disk."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# ---------------------------------------------------------------- pairing


class TokenizerSide(Record):
    """One tokenizer, as it was loaded."""

    name: str
    family: str = Field(description="byte-level BPE, SentencePiece BPE, Unigram, WordPiece, …")
    tokens: int = Field(description="number of ids the tokenizer knows")
    logits_width: int | None = Field(description="vocab_size of config.json; None where there is no config")
    roles: dict[str, int] = Field(description="special tokens by role: bos, eos, pad, unk, …")
    fingerprint: str = Field(description="sha256 over id -> meaning, roles and probe encodings")
    chat_template_sha256: str | None
    loading_notes: tuple[str, ...] = Field(
        default=(), description="what had to be done so that the ids are the model's"
    )


class SideBySide(Record):
    """One text in both tokenizers."""

    text: str
    teacher_ids: tuple[int, ...]
    student_ids: tuple[int, ...]
    teacher_tokens: tuple[str, ...]
    student_tokens: tuple[str, ...]


class DataOverlap(Record):
    """How far two tokenisations of one data set agree, in bytes."""

    source: str
    rows: int
    rows_not_comparable: int = Field(description="rows whose normalised bytes differ between the two")
    teacher_tokens: int
    student_tokens: int
    teacher_boundaries_shared: float = Field(description="share of the teacher's boundaries the student has too")
    student_boundaries_shared: float = Field(description="share of the student's boundaries the teacher has too")
    teacher_tokens_identical: float = Field(
        description="share of the teacher's tokens with a student token of the same bytes at the same place"
    )
    student_tokens_identical: float
    equal_ids_by_position: float = Field(
        description="share of positions at which an index-by-index loss would compare the same id"
    )


class TokenizerContract(Record):
    """What two tokenizers have in common, and the verdict."""

    schema_version: int = SCHEMA_VERSION
    verdict: Verdict
    reason: str = Field(description="one sentence: why this verdict")
    teacher: TokenizerSide
    student: TokenizerSide
    equal_ids: int = Field(description="ids that mean the same on both sides")
    equal_strings: int = Field(description="token strings that both vocabularies hold, whatever their ids")
    equal_bytes: int = Field(description="distinct byte strings that both vocabularies can say")
    shared_width: int = Field(description="ids 0 … shared_width-1 that mean the same; 0 where different")
    extra_tokens: tuple[str, ...] = Field(default=(), description="tokens that only one side has (at most 20)")
    example: SideBySide
    probes_differ: tuple[SideBySide, ...] = Field(
        default=(), description="probe texts that the two segment differently (at most 5)"
    )
    data: DataOverlap | None = None
    notes: tuple[str, ...] = Field(default=(), description="warnings that do not change the verdict")
    would_train: tuple[str, ...] = Field(
        default=(), description="different only: what a loss that compares by id would teach, on the example"
    )


class MethodAdmission(Record):
    """Whether one method is valid for a pair."""

    method: str
    access: AccessLevel
    admitted: bool
    reason: str


class PairJudgement(Record):
    """The answer of `distillab check`."""

    schema_version: int = SCHEMA_VERSION
    contract: TokenizerContract
    methods: tuple[MethodAdmission, ...]
    ways_out: tuple[str, ...] = Field(description="empty where every method is admitted")


# ---------------------------------------------------------------- data and teacher


class EncodingCounts(Record):
    """What happened to the rows of one split."""

    source: str
    rows: int
    kept: int
    dropped_empty_answer: int = 0
    dropped_no_room: int = Field(default=0, description="the prompt alone fills max_tokens")
    truncated: int = Field(default=0, description="answers cut at max_tokens; their EOS is lost")
    special_in_text: int = Field(default=0, description="rows whose own text contains a special token")
    tokens: int = 0
    supervised_tokens: int = 0

    @property
    def prompt_share(self) -> float:
        """Share of the tokens that are not supervised."""
        return 1 - self.supervised_tokens / self.tokens if self.tokens else 0.0


class TeacherProvenance(Record):
    """Where the teacher's signal came from."""

    name: str
    weights_sha256: str
    parameters: int
    dtype: str
    template_sha256: str


class AnswerStoreCounts(Record):
    """What became of the answers that a teacher generated."""

    path: str
    prompts: int
    generated: int
    kept: int
    teacher_tokens: int = Field(description="tokens that the teacher read and wrote for them")
    dropped_empty: int = 0
    dropped_cut_off: int = 0
    dropped_duplicate: int = 0
    not_asked: int = Field(default=0, description="prompts that leave no room for an answer in the teacher's context")


# ---------------------------------------------------------------- runs


class LikelihoodMetrics(Record):
    """Teacher-forced figures over held-out answers. `n` counts rows, `tokens` scored tokens."""

    n: int
    tokens: int
    nats_per_token: float
    bits_per_byte: float
    token_accuracy: float
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
    rouge_l: float
    stopped_by_eos: float
    mean_tokens: float


class EvaluationRecord(Record):
    """One model, judged by the shared protocol."""

    likelihood: LikelihoodMetrics
    generation: GenerationMetrics | None = None


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
    teacher_tokens: int = Field(description="read in training, or read and written for its answers")
    wall_s: float = Field(description="of the last session, where a run was resumed")
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
    config: dict[str, Any]
    fingerprints: dict[str, str] = Field(description="sha256 of rows and weights")
    contract: TokenizerContract | None
    teacher: TeacherProvenance | None
    answers: AnswerStoreCounts | None = None
    train_counts: EncodingCounts
    held_out_counts: EncodingCounts
    references: ReferenceLines
    evaluation: EvaluationRecord
    curve: tuple[CurvePoint, ...]
    cost: RunCost
    environment: dict[str, str]


# ---------------------------------------------------------------- studies


class Interval(Record):
    """A paired difference with its 95 % interval."""

    mean: float
    low: float
    high: float


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
    answer_stores: tuple[AnswerStoreCounts, ...] = ()
    reproduce: str
    environment: dict[str, str]
    wall_s: float


_R = TypeVar("_R", bound=Record)


def read_record(kind: type[_R], path: Path) -> _R:
    """Read one record from a JSON file.

    Raises:
        DataError: the file is missing, is not JSON, or does not have the fields of `kind`.
    """
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"The record cannot be read: {error.strerror}.", where=str(path)) from error
    except ValidationError as error:
        facts = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5]]
        raise DataError(
            f"The file is no {kind.__name__} of schema version {SCHEMA_VERSION}.", where=str(path), facts=facts
        ) from error


def write_record(record: Record, path: Path) -> None:
    """Write one record as JSON, whole or not at all: to a temporary name, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)

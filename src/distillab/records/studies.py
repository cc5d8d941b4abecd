"""The records of a study: the report is made from these alone."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from distillab.errors import DataError
from distillab.records.access import AccessLevel
from distillab.records.base import SCHEMA_VERSION, Record, read_record
from distillab.records.findings import Investigation
from distillab.records.metrics import FAMILIES, EvaluationRecord, Family
from distillab.records.pairing import TokenizerContract
from distillab.records.runs import CurvePoint, ReferenceLines, RolloutRecord, RunCost
from distillab.records.sources import AnswerStoreCounts, CacheUse, EncodingCounts, ServedCost, SpanCounts

_ERROR = 0.05
RESULTS = "results.json"
FEWEST_ROWS = 10  # on fewer rows a difference gets no interval


class Interval(Record):
    """A paired difference with its 95 % interval, if there are enough rows."""

    mean: float
    low: float | None = Field(description="None: too few rows for an interval")
    high: float | None
    rows: int | None = Field(default=None, description="rows on which it was measured")
    seeds: int | None = Field(
        default=None, description="seeds over which it was measured; with one the interval is over rows alone"
    )
    p: float | None = Field(default=None, description="of no difference, for this comparison alone")
    adjusted_p: float | None = Field(
        default=None,
        description="Holm's, over all arms compared with SFT; None for a shown failure",
    )
    comparisons: int | None = Field(default=None, description="over which adjusted_p is adjusted")
    direction: Literal["lower", "higher"] = Field(default="lower", description="which values are better")

    @property
    def outcome(self) -> Literal["better", "worse", "open"]:
        """The claim at 5 %, of several comparisons by the adjusted p-value. Open: not significant."""
        if not self.excludes_zero or (self.adjusted_p is not None and self.adjusted_p >= _ERROR):
            return "open"
        return "better" if (self.mean < 0) == (self.direction == "lower") else "worse"

    @property
    def better_alone(self) -> bool:
        """Whether this comparison alone, not adjusted for others, shows a better value."""
        return self.excludes_zero and (self.mean < 0) == (self.direction == "lower")

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval of this comparison alone excludes no difference."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high

    @property
    def measured_on(self) -> str:
        """`n = 200 rows × 3 seeds`."""
        if self.rows is None or self.seeds is None:
            return ""
        return f"n = {_counted(self.rows, 'row')} × {_counted(self.seeds, 'seed')}"


def _counted(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


class Recovered(Record):
    """The share of the gap between SFT (0) and the teacher (1) that an arm has closed, with its 95 % interval."""

    share: float
    low: float
    high: float


class Comparison(Record):
    """One metric of a model against another: the headline of a family against SFT, or an arm against its twin."""

    family: Family
    metric: str
    label: str
    unit: str
    difference: Interval = Field(description="the model's minus the other's, paired over seeds and rows")
    recovered: Recovered | None = None
    undefined: str | None = Field(default=None, description="why there is no share of a gap; None for a teacher")

    @property
    def topic(self) -> str:
        """What is compared, in words: a family by its headline; of benchmarks each task has figures of its own."""
        return self.label if self.family == "benchmark" else FAMILIES[self.family]


class TeacherCost(Record):
    """What an arm took from its teacher for training, over all its runs; what they share is counted once."""

    read_tokens: int = Field(description="prompts and texts that it read")
    generated_tokens: int = Field(description="for its answers")
    seconds: float | None = Field(
        description="to correct it, generate the answers and store the signals; reading online is part of the runs' "
        "own time; None: made elsewhere"
    )
    stored_bytes: int | None = Field(description="of the caches of its signals; None: made elsewhere")
    served: ServedCost | None = Field(default=None, description="what its server was asked for, as the server counts")


class Baseline(Record):
    """A model that was not trained in this study: the undistilled student, a teacher."""

    name: str
    role: Literal["undistilled student", "teacher"]
    evaluation: EvaluationRecord
    note: str | None = None
    correction: RunCost | None = Field(default=None, description="to train the teacher on the training rows first")
    served: ServedCost | None = Field(default=None, description="what its evaluation took of its server")
    random: bool | None = Field(default=None, description="whether its weights are random; None for a teacher")
    comparisons: tuple[Comparison, ...] = Field(default=(), description="of a teacher with SFT")
    against_full_precision: Interval | None = Field(
        default=None, description="of a quantised teacher: held-out nats per token minus those of its full weights"
    )


class ArmResult(Record):
    """One arm over its seeds."""

    name: str
    method: str
    access: AccessLevel
    teacher: str | None
    across_tokenizers: bool = Field(default=False, description="its teacher's ids mean other tokens than the student's")
    shown_failure: str | None = Field(default=None, description="set if the arm shows a failure on purpose")
    seeds: tuple[int, ...]
    evaluations: tuple[EvaluationRecord, ...]
    curves: tuple[tuple[CurvePoint, ...], ...]
    costs: tuple[RunCost, ...]
    comparisons: tuple[Comparison, ...] = Field(
        default=(), description="with SFT, one a family and one a benchmark's figure; none for SFT itself"
    )
    teacher_cost: TeacherCost | None = None
    rollouts: tuple[RolloutRecord, ...] = Field(
        default=(), description="what the student wrote in training, one entry a seed; empty: it wrote nothing"
    )
    twin: str | None = Field(default=None, description="the arm with the same loss on stored answers")
    against_twin: tuple[Comparison, ...] = Field(default=(), description="the KL on own text first, where measured")

    @property
    def on_policy(self) -> bool:
        """Whether the student wrote answers itself."""
        return bool(self.rollouts)

    def against(self, family: Family) -> Comparison | None:
        """Return the comparison with SFT by that family's headline."""
        return next((one for one in self.comparisons if one.family == family), None)

    @property
    def against_sft(self) -> Interval | None:
        """Held-out nats per token minus SFT's; negative is better."""
        found = self.against("likelihood")
        return None if found is None else found.difference


class GenerationSample(Record):
    """One held-out prompt and what each model answers."""

    prompt: str
    reference: str
    answers: dict[str, str]


class TokenView(Record):
    """One held-out answer, token by token: how probable each model found each token after those before it."""

    prompt: str
    tokens: tuple[str, ...] = Field(description="the scored ones, EOS too")
    probs: dict[str, tuple[float, ...]] = Field(
        description="of each model with the student's tokens; an arm by its first finished seed"
    )


class StudyResults(Record):
    """The whole of a study: `results.json`. The report is made from this file alone."""

    schema_version: int = SCHEMA_VERSION
    title: str
    question: str
    headline: str = Field(description="what each level of access buys, in one sentence")
    verdict: str
    budget: str
    references: ReferenceLines
    baselines: tuple[Baseline, ...]
    arms: tuple[ArmResult, ...]
    samples: tuple[GenerationSample, ...]
    token_view: TokenView | None = Field(default=None, description="of the first held-out row")
    contracts: tuple[TokenizerContract, ...]
    train_counts: tuple[EncodingCounts, ...]
    held_out_counts: EncodingCounts
    spans: tuple[SpanCounts, ...] = Field(default=(), description="how two tokenisations of the training rows align")
    answer_stores: tuple[AnswerStoreCounts, ...] = ()
    caches: tuple[CacheUse, ...] = Field(default=(), description="of teacher signals, read by all runs")
    investigation: Investigation | None = Field(default=None, description="what the doctor found before the first run")
    reproduce: str
    environment: dict[str, str]
    pending: dict[str, tuple[int, ...]] = Field(
        default={}, description="seeds of each arm that are not finished; empty: the study is"
    )
    wall_s: float = Field(description="sum over the runs, some of which can have run side by side")
    shared_s: float | None = Field(
        default=None,
        description="to make what the runs share: the teachers' answers and caches, those for the held-out rows too",
    )


def read_results(path: Path) -> StudyResults:
    """Read `results.json`.

    Raises:
        DataError: see `read_record`.
    """
    return read_record(StudyResults, path, fix="run the study again with `distillab compare`: finished runs are kept")


def read_study(folder: Path) -> StudyResults:
    """Read the results of a study from its output folder.

    Raises:
        DataError: it has none, or they are damaged.
    """
    if not (folder / RESULTS).is_file():
        fix = f"give the output folder of a study, with {RESULTS} in it"
        raise DataError("There is no finished study here.", where=str(folder), fix=fix)
    return read_results(folder / RESULTS)

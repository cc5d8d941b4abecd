"""Counts of rows and tokens, and the provenance of signals."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from distillab.records.base import Record

NotJudged = Literal[
    "too long", "no room for an answer", "empty answer", "no prompt", "template changes answer", "not for all teachers"
]


class EncodingCounts(Record):
    """Counts of the rows of one split: kept, dropped, truncated."""

    source: str
    rows: int
    kept: int
    dropped_empty_answer: int = 0
    dropped_no_room: int = Field(default=0, description="the prompt alone fills max_tokens")
    truncated: int = Field(default=0, description="answers cut at max_tokens; their EOS is lost")
    left_out: int = Field(
        default=0,
        description="held-out rows not evaluated: too long for a model of the pair, no prompt, or another answer in "
        "the template of each",
    )
    left_out_for: dict[NotJudged, int] = Field(default={}, description="why, adding up to left_out")
    special_in_text: int = Field(default=0, description="rows whose text contains a special token")
    rows_cut_by_template: int = Field(default=0, description="rows of whose answers the template drops text")
    characters_cut_by_template: int = Field(
        default=0, description="of answers, dropped by the template: not trained on"
    )
    rows_added_to_by_template: int = Field(default=0, description="rows into whose answers the template writes text")
    characters_added_by_template: int = Field(
        default=0, description="added to answers by the template, without special tokens: trained on"
    )
    prompts: int = Field(default=0, description="different prompts of the rows that were kept; 0: not counted")
    skipped: int = Field(default=0, description="rows that could not be read (data.on_bad_row: skip), beside `rows`")
    rows_with_lost_text: int = Field(default=0, description="rows with text for which the tokenizer has no token")
    characters_lost: int = Field(
        default=0, description="characters for which the tokenizer has no token: not trained on"
    )
    tokens: int = 0
    supervised_tokens: int = 0

    @property
    def reasons(self) -> str:
        """Why rows are not evaluated, with their numbers: `18 too long, 1 empty answer`."""
        return ", ".join(f"{number} {reason}" for reason, number in self.left_out_for.items())

    @property
    def prompt_share(self) -> float:
        """Share of the tokens that are not supervised."""
        return 1 - self.supervised_tokens / self.tokens if self.tokens else 0.0


class SpanCounts(Record):
    """Counts of the rows and tokens of a split that two tokenizers read.

    Spans are the smallest pieces of text that both tokenisations cut out; they are counted if all their tokens are
    scored for both models.
    """

    source: str = Field(default="", description="whose rows, and which teacher reads them")
    rows: int = Field(description="that the student keeps")
    teacher_lacks: int = Field(description="of these, rows that the teacher's tokenizer had no room for")
    student_tokens: int = Field(description="of the answers")
    teacher_tokens: int = Field(description="of the answers")
    student_in_spans: int
    teacher_in_spans: int
    spans: int
    one_to_one: int = Field(description="spans that are one token of both models")
    straddling: int = Field(description="spans with scored tokens and others, which no loss uses")


class TransportRecord(Record):
    """What was counted of the training rows in both tokenisations."""

    fingerprint: str = Field(description="of the counts and both tokenizers")
    tokens: int = Field(description="of the student, in prompts and answers, that were counted")
    entries: int = Field(description="different triples of teacher token, bytes of it, student token")


class TeacherProvenance(Record):
    """Where the teacher's signal came from."""

    name: str
    weights_sha256: str
    parameters: int
    dtype: str
    template_sha256: str
    quantization: str | None = Field(default=None, description="kind and bits of quantised weights, dequantised or not")
    adapter_sha256: str | None = Field(default=None, description="of the adapters on the weights")

    @model_serializer(mode="wrap")
    def _whole_weights_as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write whole weights as before there were these fields: the fingerprints of caches stay."""
        written: dict[str, Any] = write(self)
        for name in ("quantization", "adapter_sha256"):
            if written.get(name) is None:
                written.pop(name, None)
        return written


class ServedCost(Record):
    """What a teacher behind a server was asked, and what it costs; over all starts, killed ones too."""

    requests: int = Field(description="with tries that failed before the answer came")
    prompt_tokens: int = Field(description="as the server counts them, like the other two")
    cached_tokens: int = Field(description="of these, those that the server had read before")
    completion_tokens: int
    seconds: float = Field(description="in which at least one request was on its way")
    money: float | None = Field(description="by the recipe's prices; None if it has none")


def total_cost(costs: Iterable[ServedCost | None]) -> ServedCost | None:
    """Return several costs together; None if there is none. Without the prices of one, there is no sum of money."""
    known = [cost for cost in costs if cost is not None]
    if not known:
        return None
    money = [cost.money for cost in known]
    numbers = {name: sum(getattr(cost, name) for cost in known) for name in ServedCost.model_fields if name != "money"}
    return ServedCost(**numbers, money=None if None in money else sum(filter(None, money)))


class AnswerStoreCounts(Record):
    """Counts of the answers that a teacher generated."""

    path: str
    prompts: int
    generated: int
    kept: int
    teacher_tokens: int = Field(description="tokens that the teacher read and generated for them")
    generated_tokens: int = Field(description="of these, those that it generated")
    dropped_empty: int = 0
    dropped_cut_off: int = 0
    dropped_duplicate: int = 0
    dropped_filtered: int = Field(default=0, description="answers that a server filtered, or a refusal in their place")
    dropped_refused: int = Field(default=0, description="prompts that a server refused to answer, as too long ones")
    dropped_unfinished_reasoning: int = Field(
        default=0, description="answers whose reasoning has no end, if reasoning is removed"
    )
    with_reasoning: int = Field(default=0, description="answers that hold reasoning, kept or removed")
    reasoning: Literal["keep", "strip"] = Field(default="keep", description="keep or strip")
    not_asked: int = Field(
        default=0, description="prompts without a token, or that leave no room in the teacher's context"
    )
    served: ServedCost | None = Field(default=None, description="of all answers, where a server gave them")


class AnswersMade(Record):
    """The time that a worker spent on a store of answers; a file beside them."""

    seconds: float = Field(description="over all sessions; killed ones are not counted")


class CacheUse(Record):
    """A stored teacher, as a run or a study reads it."""

    path: str
    fingerprint: str = Field(description="of the cache's identity")
    teacher: str
    source: str = Field(description="name of the rows")
    kinds: tuple[str, ...]
    rows: int
    tokens: int = Field(description="that the teacher read for it")
    scored_tokens: int
    stored_bytes: int | None = Field(default=None, description="on the disk; None if the run did not make it")
    teacher_s: float | None = Field(
        default=None, description="to make it, of the last session if resumed; None if made elsewhere"
    )
    served: ServedCost | None = Field(default=None, description="to make it, where a server gave the signals")


class ServerCheck(Record):
    """A question to a server, and what it did."""

    name: str
    passed: bool | None = Field(description="None: the answer is neither good nor bad")
    found: str


class ServerProbe(Record):
    """What was measured of a teacher's server before its first row was asked for; a file beside its answers."""

    asked: str = Field(description="sha256 of the settings and the tokenizer that it was asked with")
    url: str
    dialect: str = Field(description="form of its requests, as found")
    model: str | None = Field(description="the name by which it was asked")
    backend: str = Field(description='the model and version as its answers name them; "" if they do not')
    k: int
    checks: tuple[ServerCheck, ...]
    cost: ServedCost | None = Field(default=None, description="of the probe itself; None: nothing was answered")

"""Records of the check of a pair."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from distillab.records.access import AccessLevel
from distillab.records.base import SCHEMA_VERSION, Record

Verdict = Literal["identical", "padded", "extended", "different"]


class TokenizerInfo(Record):
    """One tokenizer, as it was loaded."""

    name: str
    family: str = Field(description="byte-level BPE, SentencePiece BPE, Unigram, WordPiece, …")
    tokens: int = Field(description="number of ids of the tokenizer")
    logits_width: int | None = Field(description="vocab_size of config.json; None if there is no config")
    roles: dict[str, int] = Field(description="special tokens by role: bos, eos, pad, unk, …")
    fingerprint: str = Field(description="sha256 over id -> meaning, roles and probe encodings")
    chat_template_sha256: str | None
    loading_notes: tuple[str, ...] = Field(default=(), description="what was done so that the ids are the model's")


class SideBySide(Record):
    """One text in both tokenizers."""

    text: str
    teacher_ids: tuple[int, ...]
    student_ids: tuple[int, ...]
    teacher_tokens: tuple[str, ...]
    student_tokens: tuple[str, ...]
    spans: tuple[tuple[int, int], ...] = Field(
        default=(), description="tokens of teacher and of student up to each place in the text where both cut"
    )


class DataOverlap(Record):
    """Agreement of two tokenisations of one data set, in bytes."""

    source: str
    rows: int
    rows_not_comparable: int = Field(description="rows whose normalised bytes differ between the two")
    teacher_tokens: int
    student_tokens: int
    teacher_boundaries_shared: float = Field(description="share of the teacher's boundaries that the student has too")
    student_boundaries_shared: float = Field(description="share of the student's boundaries that the teacher has too")
    teacher_tokens_identical: float = Field(
        description="share of the teacher's tokens with a student token of the same bytes at the same place"
    )
    student_tokens_identical: float
    teacher_tokens_known: float = Field(
        description="share of the teacher's tokens that the student has too, wherever it cuts"
    )
    equal_ids_by_position: float = Field(
        description="share of positions at which an index-by-index loss would compare the same id"
    )


class TokenizerContract(Record):
    """The comparison of two tokenizers, with the verdict."""

    schema_version: int = SCHEMA_VERSION
    verdict: Verdict
    reason: str = Field(description="one sentence: why this verdict")
    teacher: TokenizerInfo
    student: TokenizerInfo
    equal_ids: int = Field(description="ids that mean the same to both models")
    equal_strings: int = Field(description="token strings that both vocabularies hold, whatever their ids")
    equal_bytes: int = Field(description="distinct byte strings that both vocabularies can write")
    shared_width: int = Field(description="ids 0 … shared_width-1 mean the same; 0 if the verdict is different")
    extra_tokens: tuple[str, ...] = Field(default=(), description="tokens that only one tokenizer has (at most 20)")
    example: SideBySide
    probes_differ: tuple[SideBySide, ...] = Field(
        default=(), description="probe texts that the two segment differently (at most 5)"
    )
    data: DataOverlap = Field(description="on the data set's texts; without any, on a small sample")
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


class Recommendation(Record):
    """The method to begin with."""

    method: str
    because: tuple[str, ...] = Field(
        description="what the pair has in common for it, which methods were not chosen, where the order was measured"
    )


class PairCheck(Record):
    """The answer of `distillab check`."""

    schema_version: int = SCHEMA_VERSION
    contract: TokenizerContract
    methods: tuple[MethodAdmission, ...]
    recommended: Recommendation
    ways_out: tuple[str, ...] = Field(description="empty where every method is admitted")

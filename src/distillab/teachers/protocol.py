"""The interface of a teacher, for training, recording, sizing and evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from distillab.models.batch import TokenBatch
from distillab.models.generation import Decoding, Generated, GeneratedText
from distillab.models.structure import ModelShape
from distillab.records import AccessLevel, TeacherProvenance
from distillab.teachers.signals import SignalRequest, TeacherSignal

NO_LAYERS = ModelShape(blocks=0, width=0, heads=0, key_value_heads=0, head_width=0)
"""The shape of a source without activations."""


@dataclass(frozen=True)
class HeadSize:
    """Size of an output head: `rows` ids, `inputs` numbers a position; `bytes` of its weight and bias."""

    rows: int
    inputs: int
    bytes: int


@dataclass(frozen=True)
class TeacherIdentity:
    """Properties of a source that are known before its first signal; a cache's identity holds them.

    Attributes:
        provenance: name, hash, size, number format and template.
        access: the highest access level that it gives.
        revision: of its weights, if they are from a hub.
        shape: sizes of its layers; `NO_LAYERS` if it gives no activations.
        dtype: of its activations, as "bfloat16".
        input_ids: ids that it reads: 0 … input_ids - 1.
        vocab_size: ids that its configuration names.
        head: None if it gives no head; then it cannot be stored as kind full.
        stop_ids: ids that end its answers, in addition to those of a template.
        engine: versions and device; others can change the last digits.
    """

    provenance: TeacherProvenance
    access: AccessLevel
    revision: str | None
    shape: ModelShape
    dtype: str
    input_ids: int
    vocab_size: int
    head: HeadSize | None = None
    stop_ids: tuple[int, ...] = ()
    engine: dict[str, str] = field(default_factory=dict)


class SignalSource(Protocol):
    """A teacher: a local model, a cache, a server, or any other source of the same kind of signal."""

    @property
    def identity(self) -> TeacherIdentity:
        """Its name, its access level, and its sizes."""
        ...

    def require(self, request: SignalRequest, *, packing: bool) -> None:
        """Check, when a run is built, that the source gives what the run's terms read.

        Args:
            packing: several samples share a sequence.
        Raises:
            TeacherError, ConfigError: it does not.
        """
        ...

    def signal(self, batch: TokenBatch, request: SignalRequest) -> TeacherSignal:
        """Return what `request` names of `batch`, without gradients."""
        ...


@runtime_checkable
class CountsTokens(Protocol):
    """A source that reads other tokens than those of the batch."""

    def tokens(self, batch: TokenBatch) -> int:
        """Count the tokens that it reads for a batch."""
        ...


def tokens_read(source: object, batch: TokenBatch) -> int:
    """Count the tokens that a source reads for a batch; those of the batch, unless it counts them itself."""
    return source.tokens(batch) if isinstance(source, CountsTokens) else int(batch["attention_mask"].sum())


@dataclass(frozen=True)
class Prompt:
    """A row's prompt as the teacher reads it.

    Attributes:
        key: of the row.
        ids: the prompt by the tokenizer in which the teacher's answers are kept.
        turns: the same as (role, text) of a conversation, for a teacher that reads text; () where it is none.
    """

    key: str
    ids: tuple[int, ...]
    turns: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Sampling:
    """Settings of generation.

    Attributes:
        decoding: length, temperature, top-p.
        stop_ids: ids that end an answer, in addition to the source's.
        seed: of the draws of one call.
    """

    decoding: Decoding
    stop_ids: tuple[int, ...]
    seed: int


class Generates(Protocol):
    """A source that can also generate answers."""

    @property
    def identity(self) -> TeacherIdentity:
        """As of a `SignalSource`."""
        ...

    def answers(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Generated | GeneratedText]:
        """Yield one answer a prompt, in their order. Equal calls give equal answers, where the source can."""
        ...


@runtime_checkable
class Announces(Protocol):
    """A source whose requests cost money."""

    def announce(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Print what requests will take; `sizes`: tokens that each reads, and generates at most."""
        ...


def announce(source: object, sizes: Sequence[tuple[int, int]]) -> None:
    """Let a source whose requests cost money print what these will take. Nothing is printed for others, or for none."""
    if isinstance(source, Announces) and sizes:
        source.announce(sizes)

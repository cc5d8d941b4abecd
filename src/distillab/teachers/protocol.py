"""The seam between who asks for a teacher's signal and who gives it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from distillab.models.batch import TokenBatch
from distillab.models.structure import ModelShape
from distillab.records import AccessLevel, TeacherProvenance
from distillab.teachers.signals import SignalRequest, TeacherSignal


@dataclass(frozen=True)
class TeacherCapabilities:
    """What a teacher can give; compared with what the terms need when a run is built."""

    access: AccessLevel
    provenance: TeacherProvenance


class Teacher(Protocol):
    """A local model, a cache of what one said, and whatever else gives the same kind of signal."""

    @property
    def capabilities(self) -> TeacherCapabilities:
        """How much of it can be seen, and where its signal comes from."""
        ...

    @property
    def shape(self) -> ModelShape:
        """Sizes of the model behind it."""
        ...

    def require(self, request: SignalRequest, *, packing: bool) -> None:
        """Check, when a run is built, that it can give what the run's terms read.

        Args:
            packing: several samples will share a sequence.
        Raises:
            TeacherError, ConfigError: it cannot.
        """
        ...

    def signal(self, batch: TokenBatch, request: SignalRequest) -> TeacherSignal:
        """What is asked for about `batch`, without gradients."""
        ...

"""The seam between who asks for a teacher's signal and who gives it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from distillab.models.batch import TokenBatch
from distillab.records import AccessLevel, TeacherProvenance
from distillab.teachers.signals import SignalRequest, TeacherSignal


@dataclass(frozen=True)
class TeacherCapabilities:
    """What a teacher can give; compared with what the terms need when a run is built."""

    access: AccessLevel
    provenance: TeacherProvenance


class Teacher(Protocol):
    """A local model, and whatever else gives the same kind of signal."""

    @property
    def capabilities(self) -> TeacherCapabilities:
        """What it can give."""
        ...

    def signal(self, batch: TokenBatch, request: SignalRequest) -> TeacherSignal:
        """What is asked for about `batch`, without gradients."""
        ...

"""The comparison of two studies: the same arms side by side."""

from __future__ import annotations

from pydantic import Field

from distillab.records.base import SCHEMA_VERSION, Record
from distillab.records.metrics import Family
from distillab.records.studies import Interval


class ComparedFigure(Record):
    """The headline of a family for one arm in both studies, as means over the seeds."""

    family: Family
    label: str
    unit: str
    first: float | None
    second: float | None
    difference: Interval | None = Field(description="second minus first; None: see the arm's `no_interval`")


class ComparedArm(Record):
    """An arm that both studies have."""

    name: str
    figures: tuple[ComparedFigure, ...]
    no_interval: str | None = Field(default=None, description="why its differences have none")


class StudyComparison(Record):
    """Two studies, and what differs between them besides their figures."""

    schema_version: int = SCHEMA_VERSION
    first: str = Field(description="folder of the first study")
    second: str
    titles: tuple[str, str]
    differs: tuple[tuple[str, str, str], ...] = Field(description="what, of the first, of the second")
    arms: tuple[ComparedArm, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]

"""The record of a student that was made from its teacher: `pruning.json` in its folder."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from distillab.records.base import SCHEMA_VERSION, Record


class CalibrationRows(Record):
    """The training rows on which the parts of the teacher were measured."""

    source: str
    rows: int
    tokens: int = Field(description="all of them, prompts too")
    sha256: str = Field(description="of their tokens")


class ModelSizes(Record):
    """What a model consists of."""

    parameters: int
    layers: int
    mlp_channels: int | None
    heads: int
    key_value_heads: int


class PruningRecord(Record):
    """What of the teacher the student is."""

    schema_version: int = SCHEMA_VERSION
    identity: str = Field(description="sha256 of the settings, the teacher's files and the calibration rows")
    files: dict[str, str] = Field(default={}, description="sha256 of the student's files")
    teacher: str
    teacher_sha256: str = Field(description="of its weight files")
    settings: dict[str, Any] = Field(description="student.from_teacher of the recipe")
    kept_layers: tuple[int, ...] = Field(description="counted from 0")
    kept_channels: tuple[tuple[int, ...], ...] = Field(description="of each kept layer; empty: all")
    kept_key_value_heads: tuple[tuple[int, ...], ...] = Field(description="of each kept layer; empty: all")
    influence: tuple[float, ...] = Field(description="of each of the teacher's layers; empty: not measured")
    key_value_head_norms: tuple[tuple[float, ...], ...] = Field(description="of each of the teacher's layers")
    channel_shares: tuple[float, ...] = Field(
        description="of each kept layer: what the kept channels have of the sum of all mean absolute activations"
    )
    calibration: CalibrationRows | None = Field(description="None: nothing was measured")
    before: ModelSizes
    after: ModelSizes

    @property
    def line(self) -> str:
        """Return one line on what was kept: `made from SmolLM2: 24 of 30 layers, 113.3 of 134.5 M parameters`."""
        before, after = self.before, self.after
        parts = [
            f"{new} of {old} {what}"
            for what, new, old in (
                ("layers", after.layers, before.layers),
                ("MLP channels", after.mlp_channels, before.mlp_channels),
                ("heads", after.heads, before.heads),
            )
            if new != old
        ]
        parts.append(f"{after.parameters / 1e6:.1f} of {before.parameters / 1e6:.1f} M parameters")
        return f"made from {self.teacher}: {', '.join(parts)}"

"""The settings of reasoning in answers: what it is marked by, and what becomes of it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from distillab.config.base import Settings

# What the open models that reason put around it, by their own templates and model cards.
REASONING_MARKERS = (
    ("<think>", "</think>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("◁think▷", "◁/think▷"),
)


class ReasoningSettings(Settings):
    """Of settings that say how answers are read."""

    reasoning: Literal["keep", "strip"] = Field(
        default="keep",
        description="what becomes of text between the reasoning markers: kept with them, or taken out with them, so "
        "that the answer alone is learned, or compared",
    )
    reasoning_markers: tuple[tuple[str, str], ...] = Field(
        default=REASONING_MARKERS,
        min_length=1,
        description="pairs of what reasoning begins and ends by, in text or special tokens; default: those of Qwen, "
        "DeepSeek and others (<think>), gpt-oss (channels), Magistral, Seed-OSS, Command A and Kimi",
    )

    @field_validator("reasoning_markers")
    @classmethod
    def _markers_are_told_apart(cls, value: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        for begin, end in value:
            if not begin.strip() or not end.strip() or begin == end:
                raise ValueError(f"reasoning needs two different markers, not {begin!r} and {end!r}")
        return value

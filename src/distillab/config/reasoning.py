"""Settings for reasoning in answers: its markers, and whether it is kept or stripped."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from distillab.config.base import Settings

# Reasoning markers of open models, from their templates and model cards.
REASONING_MARKERS = (
    ("<think>", "</think>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("◁think▷", "◁/think▷"),
)


class ReasoningSettings(Settings):
    """Base of the settings that read answers with reasoning."""

    reasoning: Literal["keep", "strip"] = Field(
        default="keep",
        description="text between the reasoning markers: keep it with the markers, or strip both, so that only the "
        "answer is trained on or compared",
    )
    reasoning_markers: tuple[tuple[str, str], ...] = Field(
        default=REASONING_MARKERS,
        min_length=1,
        description="pairs of begin and end markers, as text or special tokens; default: those of Qwen, DeepSeek and "
        "others (<think>), gpt-oss (channels), Magistral, Seed-OSS, Command A and Kimi",
    )

    @field_validator("reasoning_markers")
    @classmethod
    def _markers_are_told_apart(cls, value: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        for begin, end in value:
            if not begin.strip() or not end.strip() or begin == end:
                raise ValueError(f"reasoning needs two different markers, not {begin!r} and {end!r}")
        return value

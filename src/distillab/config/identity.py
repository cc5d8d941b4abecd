"""What of a recipe decides a figure: two recipes that agree in it are the same work."""

from __future__ import annotations

import os
from typing import Any

from pydantic import BaseModel

from distillab.config.base import Settings, is_path
from distillab.config.models import RunRecipe, StudyRecipe


def deciding(recipe: RunRecipe | StudyRecipe) -> dict[str, Any]:
    """The settings that may move a figure, as JSON holds them.

    Left out are those that a class of settings names in `decides_nothing`: the output folder, the number of workers,
    how often a checkpoint is kept. A device stays in: another one rounds otherwise and draws otherwise. Paths are
    written in one way, so that `./rows.jsonl` is `rows.jsonl`.
    """
    values = _of(recipe)
    assert isinstance(values, dict)
    return values


def _of(value: Any) -> Any:
    if isinstance(value, BaseModel):
        kind = type(value)
        left_out = kind.decides_nothing if issubclass(kind, Settings) else frozenset()
        return {
            name: _one_spelling(getattr(value, name)) if is_path(field) else _of(getattr(value, name))
            for name, field in kind.model_fields.items()
            if name not in left_out
        }
    return [_of(item) for item in value] if isinstance(value, tuple) else value


def _one_spelling(path: str | None) -> str | None:
    return path if path is None or "://" in path else os.path.normpath(path)

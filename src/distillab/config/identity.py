"""The identity of a recipe: the settings that can change a result. Equal identities are the same work."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from types import CodeType
from typing import Any

from pydantic import BaseModel

from distillab.config.base import Settings, is_path
from distillab.config.run import RunRecipe
from distillab.config.study import StudyRecipe


def identity_settings(recipe: RunRecipe | StudyRecipe) -> dict[str, Any]:
    """Return the settings that can change a result, as JSON values.

    Settings that a class lists in `no_effect_on_results` are left out: the output folder, the number of workers, the
    checkpoint interval. The device stays in, because another device rounds and samples differently. Paths are
    normalised, so that `./rows.jsonl` equals `rows.jsonl`.
    """
    return settings_identity(recipe)


def settings_identity(settings: Settings) -> dict[str, Any]:
    """Return the same for a part of a recipe."""
    values = _of(settings)
    assert isinstance(values, dict)
    return values


def _of(value: Any) -> Any:
    if isinstance(value, BaseModel):
        kind = type(value)
        left_out = kind.no_effect_on_results if issubclass(kind, Settings) else frozenset()
        return {
            name: _one_spelling(getattr(value, name)) if is_path(field) else _of(getattr(value, name))
            for name, field in kind.model_fields.items()
            if name not in left_out
        }
    if callable(value):  # a loss of one's own
        return {"name": getattr(value, "__qualname__", type(value).__qualname__), "code": _code_sha256(value)}
    if isinstance(value, dict):
        return {name: _of(item) for name, item in value.items()}
    return [_of(item) for item in value] if isinstance(value, tuple) else value


def _code_sha256(function: Callable[..., Any]) -> str:
    """Hash a function's code; values that it reads from elsewhere are not covered."""
    digest = hashlib.sha256()
    left = [getattr(function, "__code__", None) or type(function).__call__.__code__]
    while left:
        code = left.pop()
        inner = [const for const in code.co_consts if isinstance(const, CodeType)]
        plain = [const for const in code.co_consts if not isinstance(const, CodeType)]
        digest.update(code.co_code + repr((plain, code.co_names)).encode())
        left.extend(inner)
    return digest.hexdigest()


def _one_spelling(path: str | None) -> str | None:
    return path if path is None or "://" in path else os.path.normpath(path)

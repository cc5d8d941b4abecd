"""Show every setting of a recipe: its value, where it comes from, and its default."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

_ABSENT = object()
_SHORT_FORM = object()  # of a part that is written short, as "sft" for an arm
_COLUMN = 50


def settings_text(recipe: BaseModel, given: Mapping[str, Any], overrides: Sequence[str]) -> str:
    """Return a recipe as YAML that loads to the same recipe, with a comment for each setting.

    A comment says where the value comes from: the recipe's file, the command line, the default, or "derived": set by
    the method, or by another setting.

    Args:
        given: the values of the file, without the overrides.
        overrides: key.sub=value of the command line.
    """
    changed = [override.partition("=")[0].strip() for override in overrides]
    return "\n".join(_lines(recipe, given, changed, "", "")) + "\n"


def _lines(model: BaseModel, given: Any, changed: Sequence[str], above: str, indent: str) -> Iterator[str]:
    dumped = model.model_dump(mode="json", by_alias=True)
    for name, field in type(model).model_fields.items():
        key, value = field.alias or name, getattr(model, name)
        path = f"{above}{key}"
        here = _part(given, key)
        if isinstance(value, BaseModel):
            yield f"{indent}{key}:"
            yield from _lines(value, here, changed, f"{path}.", f"{indent}  ")
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            yield f"{indent}{key}:"
            for place, item in enumerate(value):
                first, *rest = _lines(item, _part(here, place), changed, f"{path}.{place}.", f"{indent}    ")
                yield f"{indent}  - {first.lstrip()}"
                yield from rest
        elif isinstance(value, dict) and value:
            yield f"{indent}{key}:"
            for of, item in value.items():
                yield f"{indent}  {json.dumps(of)}:"
                yield from _lines(item, _part(here, of), changed, f"{path}.{of}.", f"{indent}    ")
        else:
            written = f"{indent}{key}: {json.dumps(dumped[key], ensure_ascii=False)}"
            yield f"{written:<{_COLUMN}} # {_origin(path, value, here, field, changed)}"


def _part(given: Any, key: str | int) -> Any:
    """Return what the file gives for a part of something, or one of the two marks."""
    if given is _ABSENT or given is _SHORT_FORM:
        return _ABSENT
    if isinstance(given, Mapping):
        return given.get(key, _ABSENT)
    if isinstance(given, list | tuple):
        return given[key] if isinstance(key, int) and key < len(given) else _ABSENT
    return _SHORT_FORM


def _origin(path: str, value: Any, given: Any, field: FieldInfo, changed: Sequence[str]) -> str:
    default = _ABSENT if field.is_required() else field.get_default(call_default_factory=True)
    if any(path == key or path.startswith(f"{key}.") for key in changed):
        origin = "command line"
    elif given is _ABSENT or (given is _SHORT_FORM and value == default):
        origin = "default" if value == default else "derived"
    elif isinstance(given, str) and "${" in given:
        origin = f"recipe: {given}"
    else:
        origin = "recipe"
    if default is _ABSENT or default is None or origin == "default":
        return origin
    return f"{origin}; default {json.dumps(default, default=str, ensure_ascii=False)}"

"""Turn pydantic's validation errors into one message: key path, near names, and where the value was given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from distillab.config.other_trainers import advice_for
from distillab.errors import ConfigError, near_names

_FORMS = {
    *(("answers", form) for form in ("stored", "student")),
    *(("sampler", form) for form in ("named", "served")),
    *(("max_new_tokens", form) for form in ("number", "horizon")),
    *(("train", form) for form in ("source", "sources")),
}
_DEEPEST = 3  # of a key that exists at another place: a.b.c


def readable(error: ValidationError, kind: type[BaseModel], *, where: str, overrides: Sequence[str]) -> ConfigError:
    """Return one error for all problems.

    Args:
        kind: the recipe's class.
        where: the recipe's file, or its source.
        overrides: key.sub=value, as given with it.
    """
    facts, given = [], []
    for item in error.errors():
        loc = item["loc"]
        key = ".".join(str(part) for place, part in enumerate(loc) if not _is_tag(loc, place))
        override = next((text for text in overrides if _is_of(key, text.partition("=")[0].strip())), None)
        given.append(override)
        facts.append(_fact(item, key, kind) + (f"   (given by {override})" if override is not None else ""))
    if given and None not in given:
        where = "the command line"
    return ConfigError("The recipe has settings that cannot be used.", where=where, facts=facts)


def _fact(item: Any, key: str, kind: type[BaseModel]) -> str:
    if item["type"] == "extra_forbidden":
        return f"{key}: no such key; {_instead(str(item['loc'][-1]), list(item['loc'][:-1]), kind)}"
    if item["type"] == "missing":
        return f"{key}: is missing"
    message = item["msg"].removeprefix("Value error, ")
    got = "" if item["type"] == "value_error" else f" (got {item['input']!r:.200})"
    return (f"{key}: " if key else "") + message + got


def _is_of(key: str, override: str) -> bool:
    """Return whether an override sets the key, a parent of it, or a part of it."""
    return key == override or key.startswith(f"{override}.") or (bool(key) and override.startswith(f"{key}."))


def _instead(name: str, above: list[int | str], kind: type[BaseModel]) -> str:
    """Return advice for another trainer's key, or where the key belongs, or near names."""
    advice = advice_for(name)
    if advice is not None:
        return advice
    # first the sections that every recipe has
    places = sorted(_places(kind, name), key=lambda place: kind.model_fields[place.partition(".")[0]].default is None)
    return f"write {' or '.join(places)}" if places else near_names(name, _fields_at(kind, above))


def _places(kind: type[BaseModel], name: str, above: str = "", depth: int = 0) -> Iterator[str]:
    """Yield the paths of the settings of this name, without lists of terms."""
    for field, about in kind.model_fields.items():
        if field == name:
            yield above + field
        if depth + 1 < _DEEPEST and get_origin(about.annotation) not in (tuple, list):
            for model in _direct_models(about.annotation):
                yield from _places(model, name, f"{above}{field}.", depth + 1)


def _direct_models(annotation: Any) -> list[type[BaseModel]]:
    """Return the models of `A` or `A | None`, not those of lists."""
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    parts = tuple(get_args(part)[0] if get_origin(part) is Annotated else part for part in parts)
    return [part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)]


def _is_tag(path: tuple[int | str, ...], place: int) -> bool:
    """Return whether a part of an error's path is one that pydantic adds: the `kind` of an item, a form of answers."""
    if place >= 1 and (path[place - 1], path[place]) in _FORMS:
        return True
    return place >= 2 and path[place - 2] in ("terms", "kinds") and isinstance(path[place - 1], int)


def _fields_at(kind: Any, path: list[int | str]) -> list[str]:
    """Return the names that are allowed at a path of a nested model."""
    models = _models_in(kind)
    for part in path:
        deeper: list[Any] = []
        for model in models:
            if isinstance(part, str) and part in model.model_fields:
                deeper.extend(_models_in(model.model_fields[part].annotation))
        if deeper:
            models = deeper
        elif isinstance(part, str):
            models = [
                m for m in models if "kind" in m.model_fields and m.model_fields["kind"].default == part
            ] or models
    return sorted({name for model in models for name in model.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the pydantic models inside an annotation such as `tuple[A | B, ...] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType, tuple, list) or get_args(annotation):
        return [model for part in get_args(annotation) for model in _models_in(part)]
    return []

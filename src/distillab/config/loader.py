"""Load a recipe: YAML 1.2, environment variables, dotted overrides, errors with key path and near names."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from distillab.config.problems import readable
from distillab.config.run import RunRecipe
from distillab.config.study import StudyRecipe
from distillab.config.yaml_text import parse, read_text
from distillab.errors import ConfigError
from distillab.paths import require_no_password
from distillab.redaction import VARIABLE, has_password, is_secret, redacted

_Recipe = TypeVar("_Recipe", RunRecipe, StudyRecipe)
_OF_A_RUN = frozenset(RunRecipe.model_fields.keys() - StudyRecipe.model_fields.keys())
_OF_A_STUDY = frozenset(StudyRecipe.model_fields.keys() - RunRecipe.model_fields.keys())


def load_recipe(kind: type[_Recipe], path: Path, overrides: Sequence[str] = ()) -> _Recipe:
    """Read a recipe file and apply `key.sub=value` overrides.

    `${NAME}` and `${NAME:-default}` are replaced from the environment; secrets stay as they are written, and only paths
    and addresses can use them (`distillab.redaction`). Relative paths are relative to the current directory.

    Raises:
        ConfigError: unreadable file, broken YAML, duplicate key, unknown key (with its path and near
            names), wrong value, unset variable, user:password@ in an address, a secret where it would be written.
    """
    return build_recipe(kind, read_values(path), overrides, where=str(path))


def build_recipe(kind: type[_Recipe], values: Mapping[str, Any], overrides: Sequence[str], *, where: str) -> _Recipe:
    """Build a recipe from values instead of a file; overrides and variables as in `load_recipe`.

    Args:
        where: source of the values, for messages.
    Raises:
        ConfigError: as `load_recipe`.
    """
    expanded = _expand(apply_overrides(values, overrides), where=where)
    _require_of_kind(kind, expanded, where=where)
    try:
        return kind.model_validate(expanded)
    except ValidationError as error:
        raise readable(error, kind, where=where, overrides=overrides) from error


def _require_of_kind(kind: type[_Recipe], values: Mapping[str, Any], *, where: str) -> None:
    """Check that a recipe is for one run, or for a study, before its keys are checked one by one."""
    own, other = (_OF_A_STUDY, _OF_A_RUN) if kind is StudyRecipe else (_OF_A_RUN, _OF_A_STUDY)
    found = sorted(other & values.keys())
    if found and not own & values.keys():
        study = kind is StudyRecipe
        raise ConfigError(
            f"This is a recipe for {'one run' if study else 'a study'}, but the command needs one for "
            f"{'a study' if study else 'one run'}.",
            where=where,
            facts=[f"it has: {', '.join(found)}"],
            fix=f"distillab train {where}; or for a study write arms: [sft, …] and seeds: [0, 1, 2] in place of "
            f"{' and '.join(found)}"
            if study
            else f"distillab compare {where}; or for one run write method: and seed: in place of {' and '.join(found)}",
        )


def apply_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a copy of `values` with each `key.sub=value` set; the value is read as YAML.

    >>> apply_overrides({"training": {"steps": 10}}, ["training.steps=20", "seeds=[1, 2]"])
    {'training': {'steps': 20}, 'seeds': [1, 2]}
    """
    result = _copy(values)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError("An override is written key.sub=value.", facts=[f"got: {override}"])
        *parents, last = key.strip().split(".")
        place: Any = result
        for depth, part in enumerate(parents):
            place = _step(place, part, ".".join(parents[:depth]), create=True)
        value = _yaml_value(text, override)
        _expand(value, where=f"the command line, {key.strip()}")  # so that an error names the override, not the file
        if isinstance(place, list):
            place[_index(place, last, key)] = value
        elif isinstance(place, dict):
            place[last] = value
        else:
            raise ConfigError(f'"{".".join(parents)}" is a single value and has no keys.', facts=[f"got: {override}"])
    return result


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copy(item) for item in value]
    return value


def _step(place: Any, part: str, above: str, *, create: bool) -> Any:
    if isinstance(place, list):
        return place[_index(place, part, above)]
    if not isinstance(place, dict):
        raise ConfigError(f'"{above}" is a single value and has no key "{part}".')
    if create and not isinstance(place.get(part), dict | list):
        place[part] = {}
    return place[part]


def _index(place: list[Any], part: str, above: str) -> int:
    if not part.isdigit() or int(part) >= len(place):
        raise ConfigError(f'"{above}" is a list of {len(place)}; use a number from 0.', facts=[f"got: {part}"])
    return int(part)


def _yaml_value(text: str, override: str) -> Any:
    try:
        return parse(text, where=f"the value of {override.partition('=')[0]}")
    except YAMLError as error:
        raise ConfigError("The value of an override is not YAML.", facts=[f"got: {override}"]) from error


def read_values(path: Path) -> dict[str, Any]:
    """Return the keys and values of a recipe's file, as they are written.

    Raises:
        ConfigError: unreadable file, broken YAML, duplicate key.
    """
    text = read_text(path)
    try:
        values = parse(text, where=str(path))
    except DuplicateKeyError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        problem = (error.problem or "").split(" with value")[0]
        raise ConfigError(
            "A key is in the recipe twice.", where=f"{path}, line {line}", facts=[problem], fix="keep one of them"
        ) from error
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise ConfigError(
            "The recipe is not YAML.", where=f"{path}, line {line}", facts=[str(error.problem)]
        ) from error
    except YAMLError as error:  # a character that YAML does not allow
        raise ConfigError(
            "The recipe is not YAML.", where=str(path), facts=[line.strip() for line in str(error).splitlines()[:2]]
        ) from error
    if not isinstance(values, dict):
        raise ConfigError("A recipe is a mapping of keys to values.", where=str(path))
    return values


def _expand(value: Any, where: str) -> Any:
    """Replace ${NAME} and ${NAME:-default} in every text, except for secrets."""
    if isinstance(value, dict):
        return {key: _expand(item, where) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, where) for item in value]
    if not isinstance(value, str):
        return value
    if "://" in value and not has_password(value):
        value = redacted(value)  # the shell can have inserted a secret

    def replace(match: re.Match[str]) -> str:
        found = os.environ.get(match[1], match[2])
        if found is None:
            raise ConfigError(
                f"The recipe uses the environment variable {match[1]}, which is not set.",
                where=where,
                facts=[f"text: {value}"],
                fix=f"export {match[1]}=…, or write ${{{match[1]}:-default}}",
            )
        return match[0] if is_secret(match[1]) else found

    expanded = VARIABLE.sub(replace, value)
    require_no_password(expanded, where=where)
    return expanded

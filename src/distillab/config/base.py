"""Base class of the settings: strict names, finite numbers, immutable; and types of paths."""

from __future__ import annotations

import os
from typing import Annotated, Any, ClassVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from distillab.paths import is_url
from distillab.redaction import secrets_in

_NAMES_ONLY = frozenset({"title", "name"})
_WRITTEN = frozenset({"output", "folder"})


class Settings(BaseModel):
    """Base class: strict names, finite numbers, immutable.

    `no_effect_on_results` lists the settings that change no result, such as output folders and shard sizes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    no_effect_on_results: ClassVar[frozenset[str]] = frozenset()

    @field_validator("*", mode="after")
    @classmethod
    def _secrets_only_where_they_are_not_written(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse secrets except in paths that are read, and in titles and names, which keep `${NAME}`."""
        name = info.field_name or ""
        kept = name not in _NAMES_ONLY and (name in _WRITTEN or not is_path(cls.model_fields[name]))
        if kept and isinstance(value, str) and (secrets := secrets_in(value)):
            raise ValueError(f"the value of {secrets[0]}, a secret by its name, would be written to files")
        return value


def _expanded(text: str) -> str:
    """Replace a leading ~ by the home folder."""
    found = os.path.expanduser(text)  # noqa: PTH111 (Path would drop "./", which marks a folder and not a hub id)
    if found.startswith("~"):
        raise ValueError(f'no home folder is known for "{text}"; write the full path, or ./{text}')
    return found


PathText = Annotated[str, AfterValidator(_expanded)]
"""A folder, a file, a URL or a hub id. ~ is replaced once, when the recipe is read."""


def _of_this_machine(text: str) -> str:
    if is_url(text):
        raise ValueError(f"the output must be a folder of this machine, not {text}; copy or upload it afterwards")
    return text


FolderText = Annotated[PathText, AfterValidator(_of_this_machine)]
"""A folder of this machine."""


def is_path(field: FieldInfo) -> bool:
    """Return whether a setting is a `PathText`, or an optional one."""
    marks = [*field.metadata, *(mark for part in get_args(field.annotation) for mark in _marks(part))]
    return any(isinstance(mark, AfterValidator) and mark.func is _expanded for mark in marks)


def _marks(annotation: Any) -> tuple[Any, ...]:
    return getattr(annotation, "__metadata__", ())

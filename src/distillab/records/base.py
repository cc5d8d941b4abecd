"""Base class of the records, written and read as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from distillab.errors import DataError
from distillab.files import write_json

SCHEMA_VERSION = 3


class Record(BaseModel):
    """Base of all records: strict names, immutable, JSON on disk."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


_R = TypeVar("_R", bound=Record)


def read_record(kind: type[_R], path: Path, *, fix: str | None = None) -> _R:
    """Read one record from a JSON file.

    Args:
        fix: what to do if it cannot be read.
    Raises:
        DataError: the file is missing, is not JSON in UTF-8, was written with another schema version, or does not have
            the fields of `kind`.
    """
    try:
        value: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"The record cannot be read: {error.strerror}.", where=str(path), fix=fix) from error
    except (ValueError, RecursionError) as error:
        raise DataError("The record is not JSON in UTF-8.", where=str(path), facts=[str(error)], fix=fix) from error
    version = value.get("schema_version") if isinstance(value, dict) else None
    if isinstance(version, int) and version != SCHEMA_VERSION:
        newer = version > SCHEMA_VERSION
        raise DataError(
            f"The record was written by {'a newer' if newer else 'an earlier'} distillab.",
            where=str(path),
            facts=[f"schema version of the file: {version}, of this distillab: {SCHEMA_VERSION}"],
            fix="upgrade distillab, or use the version that wrote it" if newer else fix,
        )
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        facts = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5]]
        raise DataError(
            f"The file is no {kind.__name__} of schema version {SCHEMA_VERSION}.", where=str(path), facts=facts, fix=fix
        ) from error


def write_record(record: Record, path: Path) -> None:
    """Write one record as JSON, atomically; NaN and infinity raise a ValueError."""
    write_json(path, record.model_dump(mode="json"))

"""Read JSON lines, JSON lists and CSV strictly: a broken line is an error or is named."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distillab.errors import DataError

_SHOWN = 5
_SKIP = "write data.on_bad_row: skip to skip and count them"
_LONGEST_CSV_FIELD = 2**31 - 1


def read_json_lines(
    path: Path, limit: int | None, skipped: list[str] | None = None
) -> list[tuple[str, dict[str, Any]]]:
    """Read one JSON object per line; blank lines are skipped.

    Args:
        path: the file, UTF-8 (with or without BOM).
        limit: read only this many objects; the rest of the file is not checked.
        skipped: list to which broken lines are added, each with its place; None: they are an error.
    Returns:
        (origin, object) pairs; origin is `file:line`.
    Raises:
        DataError: broken lines, all of them counted and the first five shown.
    """
    rows: list[tuple[str, dict[str, Any]]] = []
    problems: list[str] = []
    start = 0
    with path.open("rb") as handle:
        for number, raw in enumerate(handle, start=1):
            if limit is not None and len(rows) >= limit:
                break
            line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
            try:
                text = line.decode("utf-8").strip()
                if text:
                    rows.append((f"{path}:{number}", _json_object(text)))
            except UnicodeDecodeError as error:
                byte = start + len(raw) - len(line) + error.start
                problems.append(f"line {number}: not UTF-8 (byte {byte} of the file is 0x{line[error.start]:02x})")
            except json.JSONDecodeError as error:
                problems.append(f"line {number}: not JSON ({error.msg}, column {error.colno}): {_start_of(text)}")
            except ValueError as error:
                problems.append(f"line {number}: {error}")
            start += len(raw)
    _settle(path, problems, skipped, f"repair these lines or remove them, or {_SKIP}")
    return rows


def read_json(path: Path, limit: int | None, skipped: list[str] | None = None) -> list[tuple[str, dict[str, Any]]]:
    """Read a JSON list of objects, or JSON lines under the name .json (both are common).

    Raises:
        DataError: not UTF-8, not JSON, or not a list of objects.
    """
    with path.open("rb") as handle:
        first = handle.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if first != b"[":
        return read_json_lines(path, limit, skipped)
    text = _decode(path)
    try:
        items = parse_json(text)
    except json.JSONDecodeError as error:
        where = f"{path}:{error.lineno}"
        raise DataError("The file is not JSON.", where=where, facts=[f"{error.msg}, column {error.colno}"]) from error
    except ValueError as error:
        raise DataError("The file cannot be read as JSON.", where=str(path), facts=[str(error)]) from error
    items = items if limit is None else items[:limit]
    problems = [f"item {n}: {_no_object(item)}" for n, item in enumerate(items, 1) if not isinstance(item, dict)]
    _settle(path, problems, skipped, f"write a list of objects: [{{…}}, {{…}}], or {_SKIP}")
    return [(f"{path}, item {number}", item) for number, item in enumerate(items, start=1) if isinstance(item, dict)]


def read_csv(path: Path, limit: int | None, skipped: list[str] | None = None) -> list[tuple[str, dict[str, Any]]]:
    """Read comma-separated values with a header; every value is text.

    Raises:
        DataError: not UTF-8, a column named twice or not at all, rows with too many or too few fields.
    """
    csv.field_size_limit(_LONGEST_CSV_FIELD)
    reader = csv.reader(io.StringIO(_decode(path), newline=""), strict=True)
    rows: list[tuple[str, dict[str, Any]]] = []
    problems: list[str] = []
    header: list[str] | None = None
    try:
        for fields in reader:
            if limit is not None and len(rows) >= limit:
                break
            if not fields:
                continue
            if header is None:
                header = fields
                _check_header(path, header)
            elif len(fields) != len(header):
                problems.append(f"line {reader.line_num}: {len(fields)} fields, the header has {len(header)}")
            else:
                rows.append((f"{path}:{reader.line_num}", dict(zip(header, fields, strict=True))))
    except csv.Error as error:
        problems.append(f"line {reader.line_num}: {error}")
    _settle(path, problems, skipped, f'write fields that hold commas, quotes or line ends in "…"; or {_SKIP}')
    return rows


def parse_json(text: str) -> Any:
    """Parse JSON strictly: no duplicate key, no NaN, no unlimited depth.

    Raises:
        ValueError: it is not JSON, or not strict.
    """
    try:
        return json.loads(text, object_pairs_hook=_object_once, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("JSON nested too deeply to be a row") from error


def _json_object(text: str) -> dict[str, Any]:
    value = parse_json(text)
    if not isinstance(value, dict):
        raise ValueError(_no_object(value))
    return value


def _object_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # The standard reader silently keeps the last of two equal keys.
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"duplicate key: {', '.join(twice)}")
    return result


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _no_object(value: Any) -> str:
    return f"a JSON {type(value).__name__}, not an object: {_start_of(json.dumps(value))}"


def _start_of(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "…"


def _decode(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # error.start does not count the BOM
        at = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        line = data.count(b"\n", 0, at) + 1
        raise DataError(
            "The file is not UTF-8.",
            where=f"{path}:{line}",
            facts=[f"byte {at} of the file is 0x{data[at]:02x}"],
            fix="convert it, for example: iconv -f LATIN1 -t UTF-8 IN > OUT",
        ) from error


def _check_header(path: Path, header: list[str]) -> None:
    if any(not name.strip() for name in header):
        raise DataError("A column of the header has no name.", where=f"{path}:1", facts=[f"header: {header}"])
    other = next((mark for mark in (";", "\t", "|") if len(header) == 1 and mark in header[0]), None)
    if other is not None:
        raise DataError(
            "The columns of the file are not separated by commas.",
            where=f"{path}:1",
            facts=[f"the header is one column with {other!r} in it: {header[0]!r:.100}"],
            fix=f"convert it once: pandas.read_csv(path, sep={other!r}).to_json(new, orient='records', lines=True)",
        )
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError("A column is in the header twice.", where=f"{path}:1", facts=[f"twice: {twice}"])


def _settle(path: Path, problems: list[str], skipped: list[str] | None, fix: str) -> None:
    """Raise an error for broken lines, or add them to `skipped`."""
    if not problems:
        return
    if skipped is not None:
        skipped.extend(f"{path}, {problem}" for problem in problems)
        return
    rule = f"{len(problems)} line{'s' if len(problems) > 1 else ''} of the file cannot be read."
    raise DataError(rule, where=str(path), facts=first_of(problems), fix=fix)


def first_of(problems: Sequence[str]) -> list[str]:
    """Return the first five lines, and how many more there are."""
    rest = [f"… and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
    return [*problems[:_SHOWN], *rest]

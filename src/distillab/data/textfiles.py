"""Read JSON lines, JSON lists and CSV strictly: a broken line is an error or is named."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from distillab.errors import DataError

Placed = tuple[str, int, dict[str, Any]]
"""A row with its place: the text before its number (`file:`), the number, the values by column."""

_SHOWN = 5
_SKIP = "write data.on_bad_row: skip to skip and count them"
_LONGEST_CSV_FIELD = 2**31 - 1
_BOM = b"\xef\xbb\xbf"


def read_json_lines(stream: BinaryIO, name: str, limit: int | None, skipped: list[str] | None) -> Iterator[Placed]:
    """Read one JSON object per line; blank lines are skipped.

    Args:
        stream: of the file, UTF-8 (with or without BOM).
        name: of the file, for messages.
        limit: read only this many objects; the rest of the file is not checked.
        skipped: list to which broken lines are added, each with its place; None: they are an error.
    Raises:
        DataError: at the end of the file: broken lines, all of them counted and the first five shown.
    """
    problems: list[str] = []
    start = count = 0
    for number, raw in enumerate(stream, start=1):
        if limit is not None and count >= limit:
            break
        line = raw.removeprefix(_BOM) if number == 1 else raw
        try:
            text = line.decode("utf-8").strip()
            if text:
                values = _json_object(text)
                count += 1
                yield f"{name}:", number, values
        except UnicodeDecodeError as error:
            byte = start + len(raw) - len(line) + error.start
            problems.append(f"line {number}: not UTF-8 (byte {byte} of the file is 0x{line[error.start]:02x})")
        except json.JSONDecodeError as error:
            problems.append(f"line {number}: not JSON ({error.msg}, column {error.colno}): {_start_of(text)}")
        except ValueError as error:
            problems.append(f"line {number}: {error}")
        start += len(raw)
    _settle(name, problems, skipped, f"repair these lines or remove them, or {_SKIP}")


def read_json(stream: BinaryIO, name: str, limit: int | None, skipped: list[str] | None) -> Iterator[Placed]:
    """Read a JSON list of objects, or JSON lines under the name .json (both are common).

    Raises:
        DataError: not UTF-8, not JSON, or not a list of objects.
    """
    first = stream.read(4096).removeprefix(_BOM).lstrip()[:1]
    stream.seek(0)
    if first != b"[":
        yield from read_json_lines(stream, name, limit, skipped)
        return
    try:
        items = parse_json(stream.read().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise _not_utf8(stream, name) from error
    except json.JSONDecodeError as error:
        where = f"{name}:{error.lineno}"
        raise DataError("The file is not JSON.", where=where, facts=[f"{error.msg}, column {error.colno}"]) from error
    except ValueError as error:
        raise DataError("The file cannot be read as JSON.", where=name, facts=[str(error)]) from error
    items = items if limit is None else items[:limit]
    problems = [f"item {n}: {_no_object(item)}" for n, item in enumerate(items, 1) if not isinstance(item, dict)]
    _settle(name, problems, skipped, f"write a list of objects: [{{…}}, {{…}}], or {_SKIP}")
    yield from ((f"{name}, item ", n, item) for n, item in enumerate(items, start=1) if isinstance(item, dict))


def read_csv(stream: BinaryIO, name: str, limit: int | None, skipped: list[str] | None) -> Iterator[Placed]:
    """Read comma-separated values with a header; every value is text.

    Raises:
        DataError: not UTF-8, a column named twice or not at all, rows with too many or too few fields.
    """
    csv.field_size_limit(_LONGEST_CSV_FIELD)
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    reader = csv.reader(text, strict=True)
    problems: list[str] = []
    header: list[str] | None = None
    count = 0
    try:
        for fields in reader:
            if limit is not None and count >= limit:
                break
            if not fields:
                continue
            if header is None:
                header = fields
                _check_header(name, header)
            elif len(fields) != len(header):
                problems.append(f"line {reader.line_num}: {len(fields)} fields, the header has {len(header)}")
            else:
                count += 1
                yield f"{name}:", reader.line_num, dict(zip(header, fields, strict=True))
    except UnicodeDecodeError as error:
        raise _not_utf8(stream, name) from error
    except csv.Error as error:
        problems.append(f"line {reader.line_num}: {error}")
    finally:
        text.detach()
    _settle(name, problems, skipped, f'write fields that hold commas, quotes or line ends in "…"; or {_SKIP}')


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


def _not_utf8(stream: BinaryIO, name: str) -> DataError:
    """Return the error of a file that is not UTF-8, with the first line and byte."""
    stream.seek(0)
    start = 0
    for number, line in enumerate(stream, start=1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            return DataError(
                "The file is not UTF-8.",
                where=f"{name}:{number}",
                facts=[f"byte {start + error.start} of the file is 0x{line[error.start]:02x}"],
                fix="convert it, for example: iconv -f LATIN1 -t UTF-8 IN > OUT",
            )
        start += len(line)
    return DataError("The file changed while it was read.", where=name, fix="start again when it is complete")


def _check_header(name: str, header: list[str]) -> None:
    if any(not column.strip() for column in header):
        raise DataError("A column of the header has no name.", where=f"{name}:1", facts=[f"header: {header}"])
    other = next((mark for mark in (";", "\t", "|") if len(header) == 1 and mark in header[0]), None)
    if other is not None:
        raise DataError(
            "The columns of the file are not separated by commas.",
            where=f"{name}:1",
            facts=[f"the header is one column with {other!r} in it: {header[0]!r:.100}"],
            fix=f"convert it once: pandas.read_csv(path, sep={other!r}).to_json(new, orient='records', lines=True)",
        )
    twice = sorted({column for column in header if header.count(column) > 1})
    if twice:
        raise DataError("A column is in the header twice.", where=f"{name}:1", facts=[f"twice: {twice}"])


def _settle(name: str, problems: list[str], skipped: list[str] | None, fix: str) -> None:
    """Raise an error for broken lines, or add them to `skipped`."""
    if not problems:
        return
    if skipped is not None:
        skipped.extend(f"{name}, {problem}" for problem in problems)
        return
    rule = f"{len(problems)} line{'s' if len(problems) > 1 else ''} of the file cannot be read."
    raise DataError(rule, where=name, facts=first_of(problems), fix=fix)


def first_of(problems: Sequence[str]) -> list[str]:
    """Return the first five lines, and how many more there are."""
    rest = [f"… and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
    return [*problems[:_SHOWN], *rest]

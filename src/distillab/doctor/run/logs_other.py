"""Logs of other trainers: transformers' trainer_state.json, printed dicts (TRL, axolotl), CSV, JSON lines."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

from distillab.doctor.run.rows import LogRow, series_of_rows
from distillab.doctor.run.series import RunFacts, RunSeries
from distillab.errors import DataError

LARGEST_BYTES = 512 * 2**20
_DICT = re.compile(r"\{[^{}]*\}")
_PAIR = re.compile(r"""['"]([^'"]{1,80})['"]\s*:\s*(?:['"]([^'"]{0,80})['"]|([-+.\w]{1,80}))""")
_PRINTED = re.compile(r"['\"](?:train_|eval_)?loss['\"]\s*:")
_ENDS = re.compile(r"[\r\n]+")  # a progress bar writes over itself


def read_text(path: Path) -> str:
    """Read the text of a log.

    Raises:
        DataError: it cannot be read, is larger than 512 MiB, or is not UTF-8.
    """
    try:
        require_small(path)
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"The log cannot be read: {error.strerror}.", where=str(path)) from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            "The log is not UTF-8 text.", where=str(path), facts=[f"byte {error.start} is 0x{data[error.start]:02x}"]
        ) from error


def require_small(path: Path) -> None:
    """Refuse a file that is too large for a log."""
    size = path.stat().st_size
    if size > LARGEST_BYTES:
        raise DataError("The file is too large for a log.", where=str(path), facts=[f"{size / 2**20:.0f} MiB"])


def read_json(text: str, *, where: str) -> Any:
    """Read any JSON value; NaN and Infinity too, because trainers write them.

    Raises:
        DataError: it is none.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError("The log is not JSON.", where=where, facts=[str(error)[:200]]) from error


def read_json_lines(path: Path) -> tuple[list[LogRow], list[str]]:
    """Return the rows of a file of JSON lines, and notes: an incomplete last line, as a killed trainer leaves it.

    Raises:
        DataError: any other line is broken, or a line is no object.
    """
    lines = [(number, line) for number, line in enumerate(read_text(path).split("\n"), 1) if line.strip()]
    rows: list[LogRow] = []
    for number, line in lines:
        where = f"{path}:{number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == lines[-1][0] and len(lines) > 1:
                return rows, [
                    f"line {number}, the last, is incomplete and was not read: the run was killed, or is still writing"
                ]
            raise DataError("A line of the log is not JSON.", where=where, facts=[str(error)[:200]]) from error
        if not isinstance(value, dict):
            raise DataError("A line of the log is not a JSON object.", where=where, facts=[line[:60]])
        rows.append(LogRow(where, value))
    return rows, []


def of_trainer_state(value: dict[str, Any], path: Path | str) -> RunSeries:
    """Read transformers' `trainer_state.json`.

    Raises:
        DataError: its history is no list of objects, or holds no loss.
    """
    history = value.get("log_history")
    if not isinstance(history, list) or not all(isinstance(item, dict) for item in history):
        raise DataError("The log_history of a trainer_state.json is a list of objects.", where=str(path))
    if not history:
        raise DataError(
            "The trainer's state has no log: its log_history is empty.",
            where=str(path),
            fix="give the printed log, or train with logging_steps and report to a file",
        )
    planned = value.get("max_steps")
    facts = RunFacts(planned_steps=planned if isinstance(planned, int) and planned > 0 else None)
    rows = [LogRow(f"{path}, log_history[{place}]", item) for place, item in enumerate(history)]
    return series_of_rows(rows, source="transformers' trainer_state.json", place=str(path), facts=facts, notes=())


def of_rows_file(path: Path) -> RunSeries:
    """Read JSON lines, a JSON list or CSV, with one entry a row."""
    kind = path.suffix.lower()
    notes: list[str] = []
    if kind == ".csv":
        rows, source = read_csv(path), "CSV"
    elif kind == ".json":
        value = read_json(read_text(path), where=str(path))
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise DataError(
                "A JSON log is a trainer_state.json or a list of objects.", where=str(path), facts=[str(value)[:80]]
            )
        rows = [LogRow(f"{path}, entry {n}", item) for n, item in enumerate(value)]
        source = "a JSON list"
    else:
        rows, notes = read_json_lines(path)
        source = "JSON lines"
    return series_of_rows(rows, source=source, place=str(path), facts=RunFacts(), notes=notes)


def read_csv(path: Path) -> list[LogRow]:
    """Return the lines of a CSV file below its header.

    Raises:
        DataError: it is none, or a line has more or fewer fields than the header.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    rows: list[LogRow] = []
    header: list[str] = []
    try:
        for fields in reader:
            where = f"{path}:{reader.line_num}"
            if not header:
                header = fields
            elif fields and len(fields) != len(header):
                raise DataError(
                    "A line of the log does not have as many fields as its header.",
                    where=where,
                    facts=[f"fields {len(fields)}, header {len(header)}"],
                )
            elif fields:
                rows.append(LogRow(where, dict(zip(header, fields, strict=True))))
    except csv.Error as error:
        raise DataError("The log is not CSV.", where=str(path), facts=[str(error)]) from error
    return rows


def of_printed(path: Path) -> RunSeries:
    """Read printed entries: `{'loss': 1.23, 'grad_norm': 0.5, 'learning_rate': 1e-05, 'epoch': 0.1}` among other text.

    Nothing is evaluated; names and values are taken out of the text. transformers prints four significant digits.

    Raises:
        DataError: no line holds such a dict.
    """
    rows: list[LogRow] = []
    digits = 0
    lines = _ENDS.split(read_text(path))
    for number, line in enumerate(lines, 1):
        if not _PRINTED.search(line):
            continue
        for piece in _DICT.findall(line):
            if _PRINTED.search(piece):
                values = {name: quoted or bare for name, quoted, bare in _PAIR.findall(piece)}
                rows.append(LogRow(f"{path}, line {number}", values))
                digits = max([digits, *(len(text.strip("-0.").replace(".", "")) for text in _losses(values))])
    if not rows:
        raise DataError(
            "The text contains no line with a printed loss.",
            where=str(path),
            facts=["looked for lines like {'loss': 1.23, 'grad_norm': 0.5, 'learning_rate': 1e-05, 'epoch': 0.1}"],
            fix="give trainer_state.json, CSV (.csv) or JSON lines (.jsonl)",
        )
    notes = [f"{len(rows):,} printed entries among {len(lines):,} lines; the other lines were skipped"]
    facts = RunFacts(significant_digits=max(1, digits))
    return series_of_rows(rows, source="a printed log", place=str(path), facts=facts, notes=notes)


def _losses(values: dict[str, str]) -> list[str]:
    return [text.split("e")[0] for name, text in values.items() if name.endswith("loss")]

"""Logs of other trainers: transformers' trainer_state.json, printed dicts (TRL, axolotl), CSV, JSON lines; trackers.

These are databases of Trackio, event files of TensorBoard, run files and exports of Weights & Biases.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from distillab.doctor.run.rows import LogRow, series_of_rows
from distillab.doctor.run.series import RunFacts, RunSeries
from distillab.errors import DataError
from distillab.library_errors import first_line

LARGEST_BYTES = 512 * 2**20
_DICT = re.compile(r"\{[^{}]*\}")
_PAIR = re.compile(r"""['"]([^'"]{1,80})['"]\s*:\s*(?:['"]([^'"]{0,80})['"]|([-+.\w]{1,80}))""")
_PRINTED = re.compile(r"['\"](?:train_|eval_)?loss['\"]\s*:")
_ENDS = re.compile(r"[\r\n]+")  # a progress bar writes over itself
EVENTS = "events.out.tfevents."
# leveldb's log: blocks of 32 KiB, in them records after checksum (4 bytes), length (2) and kind (1)
_WANDB, _BLOCK, _HEADER = b":W&B", 1 << 15, 7
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
# "NAME - train/loss", and beside it the smallest and the largest value of the points that the chart has joined
_EXPORTED = re.compile(r"(?P<run>.+) - (?P<column>.+?)(?P<bound>__MIN|__MAX)?")


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
                losses = [text.split("e")[0] for name, text in values.items() if name.endswith("loss")]
                digits = max([digits, *(len(text.strip("-0.").replace(".", "")) for text in losses)])
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


def of_trackio(path: Path) -> list[RunSeries]:
    """Read every run of a project's database, as Trackio 0.43 writes it; nothing is written to it.

    Raises:
        DataError: it is no such database, or is damaged.
    """
    require_small(path)
    runs: defaultdict[tuple[str, str], list[LogRow]] = defaultdict(list)
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            columns = {row[1] for row in database.execute("PRAGMA table_info(metrics)")}
            own = "run_id" if "run_id" in columns else "run_name"
            asked = f"SELECT {own}, run_name, step, metrics FROM metrics ORDER BY id"
            for number, (run, name, step, metrics) in enumerate(database.execute(asked), 1):
                where = f"{path}, metrics, row {number}"
                text = metrics.decode("utf-8") if isinstance(metrics, bytes) else metrics
                values = read_json(text, where=where) if isinstance(text, str) else None
                if not isinstance(values, dict):
                    raise DataError("The metrics of a row are a JSON object.", where=where)
                # it counts calls: a step among the figures goes before it
                runs[str(run), str(name)].append(LogRow(where, {"_step": step, **values}))
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise DataError("The file is no database of Trackio.", where=str(path), facts=[first_line(error)]) from error
    if not runs:
        raise DataError("The database has no run.", where=str(path))
    named = {name: rows for (_, name), rows in runs.items()}
    return _each(named if len(named) == len(runs) else runs, "Trackio", path)


def of_events(files: Sequence[Path], *, name: str) -> RunSeries:
    """Read the scalars of one folder's event files by TensorBoard's own reader.

    Raises:
        DataError: the package is missing, or a file holds no known loss.
    """
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError as error:
        raise _needs("Event files of TensorBoard", "tensorboard", files[0]) from error
    by_step: defaultdict[int, dict[str, float]] = defaultdict(dict)
    for file in files:
        require_small(file)
        found = EventAccumulator(str(file), size_guidance={"scalars": 0}).Reload()
        for tag in found.Tags()["scalars"]:
            for event in found.Scalars(tag):
                by_step[event.step][tag] = event.value
    place = str(files[0].parent)
    rows = [LogRow(f"{place}, step {step}", {"step": step, **values}) for step, values in sorted(by_step.items())]
    return _series(name, rows, "event files of TensorBoard", place, ())


def of_wandb(path: Path, *, name: str) -> RunSeries:
    """Read the history in a run's binary file, as wandb 0.31 writes it, by the package's own messages.

    Raises:
        DataError: the package is missing, or the file is damaged.
    """
    try:
        from google.protobuf.message import DecodeError
        from wandb.proto.wandb_internal_pb2 import Record
    except ImportError as error:
        raise _needs("The binary file of Weights & Biases", "wandb", path) from error
    require_small(path)
    rows: list[LogRow] = []
    notes: list[str] = []
    for number, content in enumerate(_records(path, notes), 1):
        where = f"{path}, record {number}"
        record = Record()
        try:
            record.ParseFromString(content)
        except DecodeError as error:
            raise DataError("A record of the run's file is damaged.", where=where, facts=[first_line(error)]) from error
        line = {
            "/".join(item.nested_key) or item.key: read_json(item.value_json, where=where)
            for item in record.history.item
        }
        if line:
            rows.append(LogRow(where, line))
    return _series(name, rows, "the binary file of Weights & Biases", str(path), notes)


def exported_runs(rows: Sequence[LogRow], path: Path) -> list[RunSeries] | None:
    """Return the runs of a chart that the web page of Weights & Biases exported as CSV; None: it is none.

    Its columns are "Step", "NAME - train/loss", "NAME - train/loss__MIN", …; bounds are not read.
    """
    header = list(rows[0].values) if rows else []
    columns = {name: match for name in header[1:] if (match := _EXPORTED.fullmatch(name))}
    if not columns or len(columns) < len(header) - 1:
        return None
    runs: defaultdict[str, list[LogRow]] = defaultdict(list)
    for row in rows:
        values: defaultdict[str, dict[str, Any]] = defaultdict(dict)
        for name, match in columns.items():
            if row.values[name] != "" and not match["bound"]:
                values[match["run"]][match["column"]] = row.values[name]
        for run, found in values.items():
            runs[run].append(LogRow(row.where, {"step": row.values[header[0]], **found}))
    return _each(runs, "a chart of Weights & Biases", path)


def _records(path: Path, notes: list[str]) -> Iterator[bytes]:
    data = path.read_bytes()
    if data[: len(_WANDB)] != _WANDB:
        raise DataError("The file is no run of Weights & Biases.", where=str(path), facts=[f"begins with {data[:4]!r}"])
    at, parts = _HEADER, b""
    while at < len(data):
        if _BLOCK - at % _BLOCK < _HEADER:  # the rest of a block is empty
            at += _BLOCK - at % _BLOCK
            continue
        kind, size = data[at + 6 : at + 7], int.from_bytes(data[at + 4 : at + 6], "little")
        content = data[at + _HEADER : at + _HEADER + size]
        if not kind or len(content) < size:
            notes.append("the last record is incomplete and was not read: the run was killed, or is still writing")
            return
        if zlib.crc32(kind + content) != int.from_bytes(data[at : at + 4], "little"):
            raise DataError("A record of the run's file is damaged.", where=f"{path}, byte {at}", facts=["checksum"])
        at += _HEADER + size
        parts = content if kind[0] in (_WHOLE, _FIRST) else parts + content
        if kind[0] in (_WHOLE, _LAST):
            yield parts


def _each(runs: dict[Any, list[LogRow]], source: str, path: Path) -> list[RunSeries]:
    several = len(runs) > 1
    return [
        _series((name if isinstance(name, str) else "/".join(name)) if several else "", rows, source, str(path), ())
        for name, rows in runs.items()
    ]


def _series(name: str, rows: Sequence[LogRow], source: str, place: str, notes: Sequence[str]) -> RunSeries:
    return replace(series_of_rows(rows, source=source, place=place, facts=RunFacts(), notes=notes), name=name)


def _needs(what: str, package: str, path: Path) -> DataError:
    return DataError(
        f"{what} need the package {package}, and it is not installed.",
        where=str(path),
        fix="pip install 'distillab[trackers]'; or export the run as CSV or JSON lines",
    )

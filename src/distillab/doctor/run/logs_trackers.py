"""What trackers store: databases of Trackio, event files of TensorBoard, run files and exports of Weights & Biases."""

from __future__ import annotations

import re
import sqlite3
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from distillab.doctor.run.logs_other import read_json, require_small
from distillab.doctor.run.rows import LogRow, series_of_rows
from distillab.doctor.run.series import RunFacts, RunSeries
from distillab.errors import DataError
from distillab.library_errors import first_line

EVENTS = "events.out.tfevents."
# leveldb's log: blocks of 32 KiB, in them records after checksum (4 bytes), length (2) and kind (1)
_WANDB, _BLOCK, _HEADER = b":W&B", 1 << 15, 7
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
# "NAME - train/loss", and beside it the smallest and the largest value of the points that the chart has joined
_EXPORTED = re.compile(r"(?P<run>.+) - (?P<column>.+?)(?P<bound>__MIN|__MAX)?")


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
    return _each({name: rows for (_, name), rows in runs.items()} if _distinct(runs) else runs, "Trackio", path)


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


def _distinct(runs: Any) -> bool:
    return len({name for _, name in runs}) == len(runs)


def _series(name: str, rows: Sequence[LogRow], source: str, place: str, notes: Sequence[str]) -> RunSeries:
    return replace(series_of_rows(rows, source=source, place=place, facts=RunFacts(), notes=notes), name=name)


def _needs(what: str, package: str, path: Path) -> DataError:
    return DataError(
        f"{what} need the package {package}, and it is not installed.",
        where=str(path),
        fix="pip install 'distillab[trackers]'; or export the run as CSV or JSON lines",
    )

"""Logs of trackers, as their packages write them and as nobody should, against the figures that were sent."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from distillab.doctor.run import logs_other
from distillab.doctor.run.audit import audit_run
from distillab.doctor.run.logs import read_runs
from distillab.errors import DataError

PACKAGES = Path(sys.prefix) / "trackers"
SENT = [
    {"train/loss": 3 - n / 20, "train/learning_rate": 1e-3, "train/grad_norm": 1.0, "gpu/power": 7.0} for n in range(40)
]
HELD_OUT = {10: 2.5, 20: 2.25, 39: 1.5}
LINES = [
    line
    for n, values in enumerate(SENT)
    for line in [values | {"train/global_step": n}]
    + ([{"eval/loss": HELD_OUT[n], "train/global_step": n}] if n in HELD_OUT else [])
]
# writes the same to each tracker, in a folder of its own
WRITER = f"""
import json, os, site, sys
from pathlib import Path
site.addsitedir({str(PACKAGES)!r})
folder, lines = Path(sys.argv[1]), json.loads(sys.argv[2])
import trackio
for name in ("one", "two"):
    trackio.init(project="proj", name=name)
    for line in lines:
        trackio.log(line)
    trackio.finish()
import wandb
(folder / "wandb-runs").mkdir()
run = wandb.init(project="proj", dir=str(folder / "wandb-runs"))
for line in lines:
    run.log(line)
run.finish()
from torch.utils.tensorboard import SummaryWriter
writer = SummaryWriter(str(folder / "tensorboard" / "today"))
for line in lines:
    step = line.pop("train/global_step")
    for name, value in line.items():
        writer.add_scalar(name, value, step)
writer.close()
"""
# prints place -> (name, notes, [(step, loss)], [(step, held-out loss)]) of every run, or the error
READER = f"""
import json, site, sys
from pathlib import Path
site.addsitedir({str(PACKAGES)!r})
from distillab.doctor.run.logs import read_runs
from distillab.errors import DataError
have = {{}}
for place in Path(sys.argv[1]).iterdir():
    try:
        found = [run.series for run in read_runs(place).runs]
        have[place.name] = [(s.name, s.notes, s.losses(), s.held_out_losses()) for s in found]
    except DataError as error:
        have[place.name] = str(error)
print(json.dumps(have))
"""
PARTS = (0.6, 0.02, 0.0)
Found = dict[str, Any]


def _python(code: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env=os.environ | {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "TRACKIO_DIR": f"{words[0]}/trackio"},
        cwd=words[0],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What is read of each tracker's folder, and of folders whose file ends early."""
    if not PACKAGES.is_dir():
        pytest.skip(f"the trackers are not in {PACKAGES}: make prove-trackers")
    folder = tmp_path_factory.mktemp("tracked")
    _python(WRITER, str(folder), json.dumps(LINES))
    for place in list(folder.iterdir()):
        (file,) = (path for path in place.rglob("*") if path.suffix in (".wandb", ".db") or "tfevents" in path.name)
        content = file.read_bytes()
        for part in PARTS:
            cut = folder / f"{place.name} {part}"
            cut.mkdir()
            (cut / file.name).write_bytes(content[: int(part * len(content))])
    return json.loads(_python(READER, str(folder)).splitlines()[-1])  # wandb prints lines of its own


TRACKERS = ("trackio", "tensorboard", "wandb-runs")


@pytest.mark.parametrize("tracker", TRACKERS)
def test_what_a_tracker_has_stored_is_what_was_sent(tracker: str, found: Found) -> None:
    runs = found[tracker]
    assert [name for name, *_ in runs] == (["one", "two"] if tracker == "trackio" else [""])
    for _, notes, losses, held_out in runs:
        assert losses == [[n, pytest.approx(values["train/loss"])] for n, values in enumerate(SENT)]
        assert held_out == [[n, pytest.approx(value)] for n, value in HELD_OUT.items()]
        assert "gpu_power" in notes[0] and "loss" not in notes[0]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_file_that_ends_early_is_read_as_far_as_it_goes(tracker: str, part: float, found: Found) -> None:
    runs = found[f"{tracker} {part}"]
    if isinstance(runs, str):
        assert tracker == "trackio" or part < 0.5, runs
        assert "no database of Trackio" in runs or "No column" in runs or "no run of Weights" in runs
    else:
        assert tracker != "trackio" and part > 0
        ((_, _, losses, _),) = runs
        assert 0 < len(losses) < len(SENT)
        assert losses == [[n, pytest.approx(3 - n / 20)] for n in range(len(losses))]


def database(path: Path, rows: list[tuple[object, ...]], columns: str = "run_id, run_name, step, metrics") -> Path:
    connection = sqlite3.connect(path)
    connection.execute(f"CREATE TABLE metrics (id INTEGER PRIMARY KEY, {columns})")
    marks = ", ".join("?" * len(columns.split(",")))
    connection.executemany(f"INSERT INTO metrics ({columns}) VALUES ({marks})", rows)
    connection.commit()
    connection.close()
    return path


def test_a_database_without_the_package(tmp_path: Path) -> None:
    """Metrics as text or bytes, NaN as Trackio writes it; runs of one name are told apart."""
    rows = [
        (run, "same", n, as_stored(json.dumps({"loss": 2.0 - n / 10, "grad_norm": "NaN"})))
        for run in "ab"
        for n, as_stored in enumerate([str, str.encode, str])
    ]
    first, second = (run.series for run in read_runs(database(tmp_path / "p.db", rows)).runs)
    assert (first.name, second.name) == ("a/same", "b/same")
    assert first.losses() == second.losses() == ((0, 2.0), (1, 1.9), (2, 1.8))
    assert first.grad_norms() == () and first.steps[0].grad_norm is not None
    names = {finding.id for finding in audit_run(tmp_path / "p.db").findings}
    assert "gradient-not-finite" in names


BAD = {
    "not JSON": ("a", "b", 1, "{"),
    "JSON object": ("a", "b", 1, "[1]"),
    "are a JSON object": ("a", "b", 1, 7),
    "not a number": ("a", "b", 1, '{"loss": "low"}'),
    "whole number from 0": ("a", "b", -1, '{"loss": 1}'),
    "No column": ("a", "b", 1, '{"other": 1}'),
    "no database": ("a", "b", 1, b"\xff\xfe"),
    "is not JSON": ("a", "b", 1, "[" * 100_000),
}


@pytest.mark.parametrize("said", BAD)
def test_a_database_that_is_none_is_an_error(said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        read_runs(database(tmp_path / "p.db", [BAD[said]]))


def test_other_files_are_errors(tmp_path: Path) -> None:
    for content in (b"", b"SQLite format 3\x00" + b"\xff" * 5000, bytes(range(256)) * 9):
        (tmp_path / "p.db").write_bytes(content)
        with pytest.raises(DataError, match="no database of Trackio"):
            read_runs(tmp_path)
    with pytest.raises(DataError, match="no database of Trackio"):
        read_runs(database(tmp_path / "q.db", [(1,)], "other"))
    with pytest.raises(DataError, match="has no run"):
        read_runs(database(tmp_path / "r.db", []))
    (tmp_path / "p.db").unlink()


def wandb_file(path: Path, records: list[bytes]) -> Path:
    """The format of leveldb's log, written by its rules: a record goes on in the next block where it does not fit."""
    out = bytearray(b":W&B\x0d\xbe\x01"[:7])
    for record in records:
        first = True
        while first or record:
            if 32768 - len(out) % 32768 < 7:
                out += bytes(32768 - len(out) % 32768)
            room = 32768 - len(out) % 32768 - 7
            piece, record = record[:room], record[room:]
            kind = bytes([1 if first and not record else 2 if first else 3 if record else 4])
            out += zlib.crc32(kind + piece).to_bytes(4, "little") + len(piece).to_bytes(2, "little") + kind + piece
            first = False
    path.write_bytes(bytes(out))
    return path


@pytest.mark.parametrize("sizes", [[5, 9], [32768 - 14, 3], [32768 - 14 - 3, 40_000, 70_000, 1], [100_000], [0, 1]])
def test_records_over_several_blocks(sizes: list[int], tmp_path: Path) -> None:
    records = [bytes([n + 1]) * size for n, size in enumerate(sizes)]
    notes: list[str] = []
    assert list(logs_other._records(wandb_file(tmp_path / "run.wandb", records), notes)) == records
    assert notes == []


def test_a_damaged_record_is_an_error_and_a_torn_one_a_note(tmp_path: Path) -> None:
    path = wandb_file(tmp_path / "run.wandb", [b"first", b"second"])
    content = path.read_bytes()
    notes: list[str] = []
    path.write_bytes(content[:-2])
    assert list(logs_other._records(path, notes)) == [b"first"] and "incomplete" in notes[0]
    path.write_bytes(content[:15] + b"X" + content[16:])
    with pytest.raises(DataError, match="damaged"):
        list(logs_other._records(path, notes))
    path.write_bytes(b"junk")
    with pytest.raises(DataError, match="no run of Weights & Biases"):
        list(logs_other._records(path, notes))


@pytest.mark.skipif("tensorboard" in sys.modules, reason="another test has imported it")
@pytest.mark.parametrize("name", ["run-1.wandb", "events.out.tfevents.1"])
def test_a_package_that_is_missing_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).write_bytes(b"")
    for package in ("tensorboard", "wandb"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match="pip install"):
        read_runs(tmp_path / name)


def test_a_chart_that_was_exported(tmp_path: Path) -> None:
    """Two runs of different lengths; the bounds of joined points are not read."""
    lines = ['"Step","one - train/loss","one - train/loss__MIN","one - train/loss__MAX","two - b - train/loss"']
    lines += [f'"{n}","{3 - n / 10}","0","9","{2 - n / 10 if n < 3 else ""}"' for n in range(5)]
    (tmp_path / "chart.csv").write_text("\n".join(lines))
    one, two = (run.series for run in read_runs(tmp_path / "chart.csv").runs)
    assert (one.name, two.name) == ("one", "two - b")
    assert one.losses() == tuple((n, pytest.approx(3 - n / 10)) for n in range(5))
    assert two.losses() == tuple((n, pytest.approx(2 - n / 10)) for n in range(3))


def test_a_history_in_json_lines(tmp_path: Path) -> None:
    text = "".join(json.dumps(line | {"_step": n, "_runtime": 1.5}) + "\n" for n, line in enumerate(LINES))
    (tmp_path / "wandb-history.jsonl").write_text(text)
    (run,) = read_runs(tmp_path / "wandb-history.jsonl").runs
    assert run.series.losses() == tuple((n, values["train/loss"]) for n, values in enumerate(SENT))
    assert run.series.notes == ("columns that are not read: gpu_power, _runtime",)

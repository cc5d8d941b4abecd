"""What a run measured until its checkpoint must be there when it goes on, byte for byte."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from distillab.errors import DataError, NumericsError, StorageError
from distillab.progress import Progress
from distillab.records import EvaluationRecord, ReferenceLines
from distillab.runs.journal import Journal, read_journal
from distillab.training.checkpoints import Checkpoint
from distillab.training.step_report import StepReport
from tests.figures import figures, with_value

METRICS = figures(rows=1, tokens=10, nats_per_token=2.0, bits_per_byte=1.0, token_accuracy=0.5)


def _report(step: int, loss: float = 1.0) -> StepReport:
    return StepReport(
        step=step,
        terms={"cross_entropy": (loss * 10, 10)},
        weights={"cross_entropy": 1.0},
        gradient_shares=None,
        gradient_cosines=None,
        loss=loss,
        grad_norm=1.0,
        learning_rate=0.1,
        supervised_tokens=10 * step,
        tokens=20 * step,
        teacher_tokens=30 * step,
    )


def _journal(path: Path, resumed: Checkpoint | None = None, measured: EvaluationRecord = METRICS) -> Journal:
    return Journal(
        path,
        resumed=resumed,
        evaluate_every=2,
        measure=lambda step: measured,
        references=ReferenceLines(uniform_nats=3.0, unigram_nats=2.5),
        progress=Progress("training", total=6, unit="steps"),
    )


@pytest.fixture
def stopped(tmp_path: Path) -> tuple[Path, Checkpoint]:
    """Measurements of five steps, and the checkpoint of the third."""
    path = tmp_path / "metrics.jsonl"
    journal = _journal(path)
    kept = None
    for step in range(1, 6):
        journal.step(_report(step))
        if step == 3:
            kept = journal.kept()
    return path, Checkpoint(tmp_path / "checkpoint-3", 3, kept)


def _steps(path: Path) -> list[tuple[int, bool]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [(line["step"], "terms" in line) for line in lines]


WHOLE = [
    (0, False),
    (1, True),
    (2, True),
    (2, False),
    (3, True),
    (4, True),
    (4, False),
    (5, True),
    (6, True),
    (6, False),
]


@pytest.mark.parametrize("tail", [b"", b'{"step": 6, "te', b'{"step": 6, "te\n', b"\0" * 100])
def test_what_came_after_the_checkpoint_is_cut_off_and_done_again(
    stopped: tuple[Path, Checkpoint], tail: bytes
) -> None:
    path, checkpoint = stopped
    with path.open("ab") as stream:
        stream.write(tail)
    journal = _journal(path, checkpoint)
    for step in range(4, 7):
        journal.step(_report(step))
    assert _steps(path) == WHOLE
    found = read_journal(path, steps=6)
    assert (found.supervised_tokens, found.tokens, found.teacher_tokens) == (210, 420, 630)
    assert [point.supervised_tokens for point in found.curve] == [0, 30, 100, 210]


def _without_line(content: bytes, number: int) -> bytes:
    lines = content.splitlines(keepends=True)
    return b"".join(lines[:number] + lines[number + 1 :])


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a line lost": lambda content: _without_line(content, 2),
    "the untrained student's line lost": lambda content: _without_line(content, 0),
    "a line twice": lambda content: content.split(b"\n")[0] + b"\n" + content,
    "a digit changed": lambda content: content.replace(b'"supervised_tokens": 20', b'"supervised_tokens": 90'),
    "cut before the checkpoint": lambda content: content[:300],
    "emptied": lambda content: b"",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_was_lost_before_the_checkpoint_is_refused(stopped: tuple[Path, Checkpoint], damage: str) -> None:
    path, checkpoint = stopped
    changed = DAMAGES[damage](path.read_bytes())
    assert changed != path.read_bytes()
    path.write_bytes(changed)
    with pytest.raises(DataError, match=r"(?s)do not match its checkpoint.*step 3.*starts the run again"):
        _journal(path, checkpoint)
    assert path.read_bytes() == changed


def test_a_file_that_is_gone_is_refused(stopped: tuple[Path, Checkpoint]) -> None:
    path, checkpoint = stopped
    path.unlink()
    with pytest.raises(DataError, match=r"there now: 0 bytes"):
        _journal(path, checkpoint)
    assert not path.exists()


def test_what_is_kept_is_the_file_so_far(stopped: tuple[Path, Checkpoint]) -> None:
    path, checkpoint = stopped
    kept = checkpoint.measurements
    assert kept is not None
    assert kept.sha256 == hashlib.sha256(path.read_bytes()[: kept.bytes]).hexdigest()


@pytest.mark.parametrize("lost", [1, 4])
def test_figures_of_fewer_steps_than_were_done_are_refused(stopped: tuple[Path, Checkpoint], lost: int) -> None:
    path, _ = stopped
    path.write_bytes(_without_line(path.read_bytes(), lost))
    with pytest.raises(DataError, match=r"(?s)do not cover all its steps.*lines of steps: 4, steps: 5"):
        read_journal(path, steps=5)


@pytest.mark.parametrize(
    ("line", "fact"),
    [
        (b'{"step": 6, "te\n', "damaged.*line 9"),
        (b'{"step": 6, "terms": {}', "cut off.*line 9"),
        (b'{"step": 6}\n', "line 9.*neither a step"),
        (b'{"step": 6, "terms": {"x": "1"}}\n', "line 9.*float"),
        (b"[]\n", "line 9.*object"),
    ],
)
def test_a_damaged_line_is_refused(stopped: tuple[Path, Checkpoint], line: bytes, fact: str) -> None:
    path, _ = stopped
    with path.open("ab") as stream:
        stream.write(line)
    with pytest.raises(DataError, match=f"(?s){fact}"):
        read_journal(path, steps=6)


def test_a_figure_that_is_not_finite_stops_the_run_and_is_never_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(NumericsError, match=r"(?s)step 0.*held_out_nats_per_token: nan"):
        _journal(path, measured=with_value(METRICS, "nats_per_token", float("nan")))
    assert path.read_bytes() == b""
    journal = _journal(path)
    with pytest.raises(NumericsError, match=r"(?s)step 1.*terms\.cross_entropy: inf"):
        journal.step(_report(1, loss=float("inf")))
    assert _steps(path) == [(0, False)]


def test_a_full_disk_is_named_and_loses_nothing_that_was_measured(stopped: tuple[Path, Checkpoint]) -> None:
    """/dev/full fails every write as a full disk does."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    path, checkpoint = stopped
    journal = _journal(path, checkpoint)
    kept = path.rename(path.with_name("kept"))
    path.symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"(?s)disk is full.*metrics\.jsonl.*it resumes"):
        journal.step(_report(4))
    kept.replace(path)
    journal = _journal(path, checkpoint)
    journal.step(_report(4))
    assert _steps(path) == WHOLE[:-3]

"""Write and read the measurements of a run (`metrics.jsonl`), and show its progress.

A step line: step, terms (each in its unit, nats for most), counts, weights, gradient_shares (at the steps where they
are measured), loss, grad_norm, learning_rate, supervised_tokens, tokens, tokens_per_s; rollout, where the student
writes answers itself: the figures of `training.rollout_log`.
A held-out line: step, and each held-out metric by its name: held_out_nats_per_token, held_out_bits_per_byte, …
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from distillab.errors import DataError, NumericsError
from distillab.files import disk_errors, json_line, read_json_lines, sync, write_bytes
from distillab.progress import Progress
from distillab.records import CurvePoint, EvaluationRecord, ReferenceLines
from distillab.training.checkpoints import Checkpoint, Prefix
from distillab.training.numerics import LOWER_RATE
from distillab.training.trainer import StepReport

_FAR = 0.5  # of the 16 most likely tokens
_MOSTLY = 0.5  # of the answers


class Journal:
    """Writer of one run's measurements; continues the file of an interrupted run.

    Args:
        path: the file; None on all processes but the first.
        steps: optimizer steps of the whole run.
        resumed: the checkpoint that training starts from, None at step 0; measurements after it belong to steps that
            will be repeated, and are removed.
        evaluate_every: steps between two points of the learning curve; step 0 and the last always are.
        measure: returns held-out figures of the student at a step.
        references: shown beside the held-out loss.
        progress: shows the run.
    Raises:
        DataError: the measurements up to the checkpoint have changed since.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        steps: int,
        resumed: Checkpoint | None,
        evaluate_every: int,
        measure: Callable[[int], EvaluationRecord],
        references: ReferenceLines,
        progress: Progress,
    ) -> None:
        self._path, self._steps, self._every = path, steps, evaluate_every
        self._measure, self._progress = measure, progress
        self._lines = f"unigram {references.unigram_nats:.2f}, log V {references.uniform_nats:.2f}"
        self._shown = ""
        self._last = time.perf_counter()
        if path is not None:
            _cut_to(path, resumed)
        if resumed is None:
            self._held_out(0)

    def step(self, report: StepReport) -> None:
        """Record one optimizer step, and measure the held-out rows where a point is due."""
        now = time.perf_counter()
        elapsed, self._last = now - self._last, now
        means = {name: total / count if count else 0.0 for name, (total, count) in report.terms.items()}
        self._write(
            {
                "step": report.step,
                "terms": means,
                "counts": {name: count for name, (_, count) in report.terms.items()},
                "weights": report.weights,
                **({"gradient_shares": report.gradient_shares} if report.gradient_shares else {}),
                **({"gradient_cosines": report.gradient_cosines} if report.gradient_cosines else {}),
                "loss": report.loss,
                "grad_norm": report.grad_norm,
                "learning_rate": report.learning_rate,
                "supervised_tokens": report.supervised_tokens,
                "tokens": report.tokens,
                "teacher_tokens": report.teacher_tokens,
                "tokens_per_s": report.tokens / elapsed,
                **({"rollout": report.rollout} if report.rollout is not None else {}),
            }
        )
        shown = ", ".join(f"{name} {value:.3f}" for name, value in means.items())
        share = report.supervised_tokens / report.tokens if report.tokens else 0.0
        self._progress.advance(
            note=f"{shown}{self._shown} nats; {report.tokens / elapsed:.0f} tokens/s, {share:.0%} supervised"
            + _written(report.rollout)
        )
        if report.step % self._every == 0 or report.step == self._steps:
            self._held_out(report.step)

    def _held_out(self, step: int) -> None:
        measured = self._measure(step)
        self._shown = f", held-out {measured.nats_per_token:.3f} ({self._lines})"
        found = {f"held_out_{metric.name}": metric.value for metric in measured.metrics if metric.value is not None}
        self._write({"step": step, **found})
        self._last = time.perf_counter()

    def kept(self) -> Prefix:
        """Sync the measurements so far to disk; return their length and hash."""
        assert self._path is not None  # only the writing process makes checkpoints
        sync(self._path)
        content = self._path.read_bytes()
        return Prefix(len(content), hashlib.sha256(content).hexdigest())

    def _write(self, line: dict[str, Any]) -> None:
        bad = [f"{name}: {value}" for name, value in _numbers(line) if not math.isfinite(value)]
        if bad:
            raise NumericsError(
                "A figure of the run is not finite, so training stopped.",
                where=f"step {line['step']}",
                facts=bad[:5],
                fix=LOWER_RATE,
            )
        if self._path is not None:
            with disk_errors(self._path), self._path.open("a", encoding="utf-8") as stream:
                stream.write(json_line(line))


def _written(rollout: dict[str, float] | None) -> str:
    """Return the progress line's part on what the student wrote; "" where it wrote nothing."""
    if rollout is None:
        return ""
    return (
        f"; wrote {rollout['length_mean']:.0f} tokens an answer, {rollout['truncated']:.0%} cut, "
        f"{rollout['repetitive']:.0%} repetitive"
    )


def rollout_notes(lines: list[dict[str, Any]]) -> tuple[str, ...]:
    """Return what a reader of the run must know of the answers that the student wrote; () where it wrote none."""
    steps = [line["rollout"] for line in lines if "rollout" in line]
    if not steps:
        return ()
    notes = []
    overlap = steps[0].get("top16_overlap")
    if overlap is not None and overlap < _FAR:
        notes.append(
            f"at step 1 student and teacher shared {overlap:.0%} of their 16 most likely tokens on the student's own "
            "answers, and on-policy training needs about half: train the student with seqkd first, and start from it"
        )
    cut = sum(step["truncated"] for step in steps) / len(steps)
    if cut > _MOSTLY:
        notes.append(f"{cut:.0%} of the student's answers were cut at answers.max_new_tokens: raise it")
    most = max(step["fraction"] for step in steps)
    guarded = sum(step["fraction"] < most for step in steps)
    if guarded:
        notes.append(
            f"at {guarded} of {len(steps)} steps the student wrote fewer answers than answers.fraction, because more "
            "than a fifth of the last ones repeated themselves"
        )
    return tuple(notes)


def read_curve(lines: list[dict[str, Any]]) -> tuple[CurvePoint, ...]:
    """Return the learning curve of a run: each held-out point with the mean of every term since the point before."""
    points: list[CurvePoint] = []
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    supervised = 0
    for line in lines:
        if "terms" in line:
            for name, mean in line["terms"].items():
                count = line["counts"][name]
                sums[name] = sums.get(name, 0.0) + mean * count
                counts[name] = counts.get(name, 0) + count
            supervised += line["supervised_tokens"]
        else:
            points.append(
                CurvePoint(
                    step=line["step"],
                    train_nats={name: sums[name] / counts[name] for name in sums if counts[name]},
                    held_out_nats_per_token=line["held_out_nats_per_token"],
                    supervised_tokens=supervised,
                )
            )
            sums, counts = {}, {}
    return tuple(points)


def read_totals(lines: list[dict[str, Any]]) -> tuple[int, int, int]:
    """Return (supervised tokens, the student's tokens, the teacher's tokens of the same text) over all steps."""
    steps = [line for line in lines if "terms" in line]
    totals = [sum(line[name] for line in steps) for name in ("supervised_tokens", "tokens", "teacher_tokens")]
    return totals[0], totals[1], totals[2]


def read_journal(path: Path, *, steps: int) -> list[dict[str, Any]]:
    """Read the lines of a run that has ended.

    Raises:
        DataError: a line is damaged, or the steps are not each one from the first to the last, once.
    """
    lines = read_json_lines(path)
    there = [line.get("step") for line in lines if "terms" in line]
    if there != list(range(1, steps + 1)):
        at = next((n for n, step in enumerate(there, start=1) if step != n), len(there) + 1)
        raise DataError(
            "The run's measurements do not cover all its steps, so its figures would be wrong.",
            where=str(path),
            facts=[
                f"lines of steps: {len(there)}, steps: {steps}",
                f"first missing or out of order: step {at}",
            ],
            fix=_ANEW,
        )
    return lines


_ANEW = (
    "restore the file from a copy; or delete it and the run's checkpoints, and the same command starts the run again"
)


def _numbers(line: dict[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    for name, value in line.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{above}{name}.")
        elif isinstance(value, float):
            yield above + name, value


def _cut_to(path: Path, resumed: Checkpoint | None) -> None:
    """Truncate the file to the measurements up to a checkpoint; a killed process can have left half a line."""
    if resumed is None or resumed.measurements is None:
        write_bytes(path, b"")
        return
    sealed = resumed.measurements
    content = path.read_bytes() if path.exists() else b""
    kept = content[: sealed.bytes]
    if hashlib.sha256(kept).hexdigest() != sealed.sha256:
        raise DataError(
            "The run's measurements do not match its checkpoint, so its figures would be wrong.",
            where=str(path),
            facts=[
                f"the checkpoint of step {resumed.step} was sealed with the first {sealed.bytes:,} bytes",
                f"there now: {len(content):,} bytes" + ("" if len(content) < sealed.bytes else ", and they differ"),
            ],
            fix=_ANEW,
        )
    write_bytes(path, kept)

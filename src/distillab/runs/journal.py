"""Write and read the measurements of a run (`metrics.jsonl`), and show its progress.

A step line: step, terms (each in its unit, nats for most), counts, weights, gradient_shares (at the steps where they
are measured), loss, grad_norm, learning_rate, supervised_tokens, tokens, tokens_per_s; rollout, where the student
writes answers itself: the figures of `training.rollout_log`, and the shares of the step's time.
A held-out line: step, and each held-out metric by its name: held_out_nats_per_token, held_out_bits_per_byte, …;
written, at the first and the last, where the student writes answers itself: a few prompts with its answers.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from distillab.errors import DataError, NumericsError
from distillab.files import disk_errors, json_line, sync, write_bytes
from distillab.progress import Progress
from distillab.records import CurvePoint, EvaluationRecord, ReferenceLines
from distillab.runs.peers import note_step
from distillab.runs.rollouts import RolloutSteps, RolloutWatch, Samples, summary, with_shares_of_time
from distillab.training.checkpoints import Checkpoint, Prefix, prefix_of
from distillab.training.numerics import LOWER_RATE
from distillab.training.step_report import StepReport


class Journal:
    """Writer of one run's measurements; continues the file of an interrupted run.

    Args:
        path: the file; None on all processes but the first.
        resumed: the checkpoint that training starts from, None at step 0; measurements after it belong to steps that
            will be repeated, and are removed.
        evaluate_every: steps between two points of the learning curve; step 0 and the last always are.
        measure: returns held-out figures of the student at a step.
        references: shown beside the held-out loss.
        progress: shows the run.
        watch: looks at what the student writes; None: it writes nothing.
        tell: called with each line, too; None: nobody is told.
    Raises:
        DataError: the measurements up to the checkpoint have changed since.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        resumed: Checkpoint | None,
        evaluate_every: int,
        measure: Callable[[int], EvaluationRecord],
        references: ReferenceLines,
        progress: Progress,
        watch: RolloutWatch | None = None,
        tell: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self._watch, self._tell = watch, tell
        self._path, self._every = path, evaluate_every
        self._measure, self._progress = measure, progress
        self._lines = f"unigram {references.unigram_nats:.2f}, log V {references.uniform_nats:.2f}"
        self._shown = ""
        self._last = time.perf_counter()
        if path is not None:
            _cut_to(path, resumed)
        if resumed is None:
            self._held_out(0, at_end=True)

    def step(self, report: StepReport) -> None:
        """Record one optimizer step, and measure the held-out rows where a point is due."""
        note_step(report.step)
        now = time.perf_counter()
        elapsed, self._last = now - self._last, now
        rollout = None if report.rollout is None else with_shares_of_time(report.rollout, elapsed)
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
                **({"budget_spent": report.spent} if report.spent is not None else {}),
                **({"rollout": rollout} if rollout is not None else {}),
            }
        )
        shown = ", ".join(f"{name} {value:.3f}" for name, value in means.items())
        share = report.supervised_tokens / report.tokens if report.tokens else 0.0
        done = report.step if report.spent is None else int(100 * report.spent)
        self._progress.advance(
            done - self._progress.done,
            note=f"{shown}{self._shown} nats; {report.tokens / elapsed:.0f} tokens/s, {share:.0%} supervised"
            + summary(rollout),
        )
        for text in self._watch.news(report.step, rollout) if self._watch is not None and rollout is not None else ():
            self._progress.say(text)
        if report.step % self._every == 0 or report.last:
            self._held_out(report.step, at_end=report.last)

    def _held_out(self, step: int, *, at_end: bool) -> None:
        measured = self._measure(step)
        self._shown = f", held-out {measured.nats_per_token:.3f} ({self._lines})"
        found = {f"held_out_{metric.name}": metric.value for metric in measured.metrics if metric.value is not None}
        written = {"written": self._watch.examples()} if self._watch is not None and at_end else {}
        self._write({"step": step, **found, **written})
        self._last = time.perf_counter()

    def kept(self) -> Prefix:
        """Sync the measurements so far to disk; return their length and hash."""
        assert self._path is not None  # only the writing process makes checkpoints
        sync(self._path)
        return prefix_of(self._path.read_bytes())

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
        if self._tell is not None:
            self._tell(line)


class _Line(msgspec.Struct):
    """What the record of a run needs of a line of its measurements."""

    step: int
    terms: dict[str, float] | None = None
    counts: dict[str, float] = {}
    supervised_tokens: int = 0
    tokens: int = 0
    teacher_tokens: int = 0
    held_out_nats_per_token: float | None = None
    rollout: dict[str, float] | None = None
    written: Samples | None = None


@dataclass
class Measurements:
    """The measurements of a run that has ended.

    Attributes:
        curve: each held-out point with the mean of every term since the point before.
        supervised_tokens, tokens, teacher_tokens: over all steps: supervised ones, the student's, and the teacher's of
            the same text.
        rollouts: the figures of the steps in which the student wrote answers.
        samples: a few prompts with its answers, before and after training.
    """

    curve: list[CurvePoint] = field(default_factory=list)
    supervised_tokens: int = 0
    tokens: int = 0
    teacher_tokens: int = 0
    rollouts: RolloutSteps = field(default_factory=RolloutSteps)
    samples: list[Samples] = field(default_factory=list)


def read_journal(path: Path, *, steps: int) -> Measurements:
    """Read the lines of a run that has ended, one at a time.

    Raises:
        DataError: a line is damaged, or the steps are not each one from the first to the last, once.
    """
    found = Measurements()
    sums: dict[str, float] = defaultdict(float)
    counts: dict[str, float] = defaultdict(float)
    lines, wrong = 0, None
    for line in _lines(path):
        if line.held_out_nats_per_token is not None:
            means = {name: sums[name] / counts[name] for name in sums if counts[name]}
            found.curve.append(
                CurvePoint(
                    step=line.step,
                    train_nats=means,
                    held_out_nats_per_token=line.held_out_nats_per_token,
                    supervised_tokens=found.supervised_tokens,
                )
            )
            sums.clear()
            counts.clear()
            found.samples += [line.written] if line.written is not None else []
            continue
        lines += 1
        wrong = lines if wrong is None and line.step != lines else wrong
        for name, mean in (line.terms or {}).items():
            sums[name] += mean * line.counts[name]
            counts[name] += line.counts[name]
        found.supervised_tokens += line.supervised_tokens
        found.tokens += line.tokens
        found.teacher_tokens += line.teacher_tokens
        if line.rollout is not None:
            found.rollouts.append(line.rollout)
    if wrong is not None or lines != steps:
        raise DataError(
            "The run's measurements do not cover all its steps, so its figures would be wrong.",
            where=str(path),
            facts=[
                f"lines of steps: {lines}, steps: {steps}",
                f"first missing or out of order: step {wrong or lines + 1}",
            ],
            fix=_ANEW,
        )
    return found


def _lines(path: Path) -> Iterator[_Line]:
    decoder = msgspec.json.Decoder(_Line)
    try:
        with path.open("rb") as stream:
            for number, text in enumerate(stream, start=1):
                where = f"{path}, line {number}"
                if not text.endswith(b"\n"):
                    raise DataError("The last line of the file is incomplete: it was cut off.", where=where)
                try:
                    line = decoder.decode(text)
                    if (line.terms is None) is (line.held_out_nats_per_token is None):
                        raise msgspec.ValidationError("neither a step nor a held-out measurement")
                    yield line
                except msgspec.MsgspecError as error:
                    raise DataError("A line of the file is damaged.", where=where, facts=[str(error)[:200]]) from error
    except OSError as error:
        raise DataError(f"The file cannot be read: {error.strerror}.", where=str(path)) from error


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
    if prefix_of(kept) != sealed:
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

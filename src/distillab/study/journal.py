"""What happens during a run, line by line on disk: `metrics.jsonl`, the progress line, the learning curve.

A step line: step, terms (each in its unit, nats for most), counts, weights, gradient_shares (at the steps where they
are measured), loss, grad_norm, learning_rate, supervised_tokens, tokens, tokens_per_s.
A held-out line: step, held_out_nats_per_token, held_out_bits_per_byte, held_out_token_accuracy.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distillab.errors import DataError
from distillab.progress import Progress
from distillab.records import CurvePoint, LikelihoodMetrics, ReferenceLines
from distillab.training.trainer import StepReport


class Journal:
    """Writes the measurements of one run; can go on where a killed run stopped.

    Args:
        path: the file; None on all processes but the first.
        steps: optimizer steps of the whole run.
        resumed_at: step of the checkpoint that training starts from; later lines are of steps that will
            be done again, and are removed.
        evaluate_every: steps between two points of the learning curve; step 0 and the last always are.
        measure: gives held-out figures of the student as it is now.
        references: the lines that a held-out figure is shown beside.
        progress: shows the run.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        steps: int,
        resumed_at: int,
        evaluate_every: int,
        measure: Callable[[], LikelihoodMetrics],
        references: ReferenceLines,
        progress: Progress,
    ) -> None:
        self._path, self._steps, self._every = path, steps, evaluate_every
        self._measure, self._progress = measure, progress
        self._lines = f"unigram {references.unigram_nats:.2f}, log V {references.uniform_nats:.2f}"
        self._shown = ""
        self._last = time.perf_counter()
        if path is not None:
            _cut_after(path, resumed_at)
        if resumed_at == 0:
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
            }
        )
        shown = ", ".join(f"{name} {value:.3f}" for name, value in means.items())
        share = report.supervised_tokens / report.tokens if report.tokens else 0.0
        self._progress.advance(
            note=f"{shown}{self._shown} nats; {report.tokens / elapsed:.0f} tokens/s, {share:.0%} supervised"
        )
        if report.step % self._every == 0 or report.step == self._steps:
            self._held_out(report.step)

    def _held_out(self, step: int) -> None:
        measured = self._measure()
        self._shown = f", held-out {measured.nats_per_token:.3f} ({self._lines})"
        self._write(
            {
                "step": step,
                "held_out_nats_per_token": measured.nats_per_token,
                "held_out_bits_per_byte": measured.bits_per_byte,
                "held_out_token_accuracy": measured.token_accuracy,
                "held_out_confidence": measured.confidence,
                "held_out_expected_calibration_error": measured.expected_calibration_error,
            }
        )
        self._last = time.perf_counter()

    def _write(self, line: dict[str, Any]) -> None:
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")


def read_curve(path: Path) -> tuple[CurvePoint, ...]:
    """The learning curve of a run: each held-out point with the mean of every term since the point before."""
    points: list[CurvePoint] = []
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    supervised = 0
    for line in _lines(path):
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


def read_totals(path: Path) -> tuple[int, int, int]:
    """(supervised tokens, tokens of the student, of the same text by the teacher) over all steps of a run."""
    steps = [line for line in _lines(path) if "terms" in line]
    # a run that an earlier version began has lines without the teacher's: both read the same tokens there
    theirs = [line.get("teacher_tokens", line["tokens"]) for line in steps]
    return sum(line["supervised_tokens"] for line in steps), sum(line["tokens"] for line in steps), sum(theirs)


def _lines(path: Path) -> list[dict[str, Any]]:
    lines = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            lines.append(json.loads(text))
        except ValueError as error:
            raise DataError("A line of the run's metrics is damaged.", where=f"{path}, line {number}") from error
    return lines


def _cut_after(path: Path, step: int) -> None:
    """Remove the lines of steps that a resumed run does again, and a last line that a kill left unfinished."""
    if not path.exists():
        return
    kept = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            break
        if step > 0 and line["step"] <= step:
            kept.append(text)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(text + "\n" for text in kept), encoding="utf-8")
    temporary.replace(path)

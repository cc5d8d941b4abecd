"""Logs as trainers leave them: sound ones, and the same with one fault planted."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.figures import figures

from distillab.records import (
    EncodingCounts,
    ReferenceLines,
    RunCost,
    RunRecord,
    write_record,
)

REAL = Path(__file__).resolve().parent / "run_logs"
UNIFORM, UNIGRAM = math.log(640), 4.5
Row = dict[str, Any]


def curve(n: int, start: float, end: float, *, noise: float = 0.05, seed: int = 0) -> list[float]:
    """A loss that falls fast and then slowly, with noise in proportion."""
    draw = random.Random(seed)
    return [
        max(1e-3, (end + (start - end) * math.exp(-5 * at / n)) * (1 + noise * draw.gauss(0, 1))) for at in range(n)
    ]


def linear(n: int, peak: float = 1e-3) -> list[float]:
    return [peak * (1 - at / n) for at in range(n)]


def steady(n: int, level: float = 1.0, seed: int = 3) -> list[float]:
    draw = random.Random(seed)
    return [level * math.exp(0.15 * draw.gauss(0, 1)) for _ in range(n)]


def theirs(
    losses: Sequence[float],
    *,
    norms: Sequence[float] | None = None,
    rates: Sequence[float] | None = None,
    held_out: Sequence[tuple[int, float]] = (),
    epochs: float = 0.5,
) -> list[Row]:
    """Entries of another trainer's log, training and held-out ones in the order of their steps."""
    n = len(losses)
    rates, norms = rates or linear(n), norms or steady(n)
    rows: list[Row] = [
        {
            "step": at + 1,
            "loss": losses[at],
            "grad_norm": norms[at],
            "learning_rate": rates[at],
            "epoch": epochs * (at + 1) / n,
        }
        for at in range(n)
    ]
    rows += [{"step": step, "eval_loss": value, "epoch": epochs * step / n} for step, value in held_out]
    return sorted(rows, key=lambda row: row["step"])


def write_lines(folder: Path, rows: Sequence[Row]) -> Path:
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@dataclass
class OurRun:
    """A run folder of ours; fields are what a fault changes."""

    terms: dict[str, Sequence[float]] = field(default_factory=lambda: {"cross_entropy": curve(300, UNIFORM, 0.8)})
    held_out: Sequence[tuple[int, float]] = ((0, 6.5), (60, 2.3), (120, 1.4), (180, 1.1), (240, 1.0), (300, 0.98))
    accuracy: Sequence[float] | None = None
    calibration: Sequence[float] | None = None
    confidence: Sequence[float] | None = None
    norms: Sequence[float] | None = None
    rates: Sequence[float] | None = None
    weights: dict[str, float] = field(default_factory=dict)
    shares: dict[str, float] | None = None
    cosines: dict[str, float] | None = None
    counts: dict[str, int] = field(default_factory=dict)
    rollout: dict[str, Sequence[float]] = field(default_factory=dict)
    scale: float = 1.0
    init: str = "random"
    rows: int = 1000
    planned: int | None = None
    answers: Sequence[str] | None = None
    stopped: float = 1.0
    mean_tokens: float = 8.0
    expected_tokens: int = 9

    def write(self, folder: Path) -> Path:
        n = len(next(iter(self.terms.values())))
        norms, rates = self.norms or steady(n), self.rates or linear(n)
        rows: list[Row] = []
        for at in range(n):
            terms = {name: values[at] for name, values in self.terms.items()}
            weights = {name: self.weights.get(name, 1.0) for name in terms}
            rows.append(
                {
                    "step": at + 1,
                    "terms": terms,
                    "counts": {name: self.counts.get(name, 120) for name in terms},
                    "weights": weights,
                    **({"gradient_shares": self.shares} if self.shares and at % 30 == 0 else {}),
                    **({"gradient_cosines": self.cosines} if self.cosines and at % 30 == 0 else {}),
                    **({"rollout": {key: of[at] for key, of in self.rollout.items()}} if self.rollout else {}),
                    "loss": self.scale * sum(weights[name] * value for name, value in terms.items()),
                    "grad_norm": norms[at],
                    "learning_rate": rates[at],
                    "supervised_tokens": 120,
                    "tokens": 200,
                    "tokens_per_s": 1000.0,
                }
            )
        for place, (step, value) in enumerate(self.held_out):
            row: Row = {"step": step, "held_out_nats_per_token": value, "held_out_bits_per_byte": value / 2}
            row["held_out_token_accuracy"] = self.accuracy[place] if self.accuracy else 0.5 + place / 1000
            if self.calibration:
                row["held_out_expected_calibration_error"] = self.calibration[place]
            if self.confidence:
                row["held_out_confidence"] = self.confidence[place]
            rows.append(row)
        rows.sort(key=lambda row: (row["step"], "terms" not in row))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        answers = self.answers or [f"answer number {n} of all" for n in range(20)]
        lines = [
            {"key": str(n), "nats": 9.0, "tokens": self.expected_tokens, "answer": a} for n, a in enumerate(answers)
        ]
        (folder / "held_out.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        write_record(self._record(n, len(answers)), folder / "run.json")
        return folder

    def _record(self, n: int, answers: int) -> RunRecord:
        counts = EncodingCounts(source="train", rows=self.rows, kept=self.rows)
        return RunRecord(
            name="run",
            arm="arm",
            method="sft",
            access="none",
            seed=0,
            identity="0" * 64,
            config={
                "student": {"init": self.init},
                "training": {"batch_size": 16, "steps": self.planned or n},
                "evaluation": {"max_new_tokens": 32},
            },
            fingerprints={},
            contract=None,
            teacher=None,
            train_counts=counts,
            held_out_counts=counts,
            references=ReferenceLines(uniform_nats=UNIFORM, unigram_nats=UNIGRAM),
            evaluation=figures(
                generated=answers,
                nats_per_token=1.0,
                bits_per_byte=0.5,
                token_accuracy=0.5,
                exact_match=0.0,
                normalised_match=0.0,
                rouge_l=0.3,
                stopped_by_eos=self.stopped,
                mean_tokens=self.mean_tokens,
            ),
            curve=(),
            cost=RunCost(
                steps=n, supervised_tokens=1, student_tokens=1, teacher_tokens=0, wall_s=1.0, peak_rss_bytes=1
            ),
            environment={},
        )


@dataclass(frozen=True)
class Case:
    """A log, how it is asked about, and what must be found."""

    name: str
    make: Callable[[Path], Path]
    finds: str = ""
    severity: str = ""
    given: dict[str, Any] = field(default_factory=dict)


def real(name: str) -> Callable[[Path], Path]:
    return lambda folder: REAL / name


def ours(**changed: Any) -> Callable[[Path], Path]:
    return lambda folder: OurRun(**changed).write(folder)


def lines(rows: Sequence[Row]) -> Callable[[Path], Path]:
    return lambda folder: write_lines(folder, rows)


def text(name: str, content: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_text(content, encoding="utf-8")
        return path

    return make


def changed(values: Sequence[float], places: dict[int, float]) -> list[float]:
    return [places.get(at, value) for at, value in enumerate(values)]


def printed_run(n: int = 40, seed: int = 0) -> str:
    """What an older transformers prints: bare numbers, a progress bar on the same line, a summary at the end."""
    losses = curve(n, 3.0, 1.2, seed=seed)
    printed = [
        f"\r{at}/{n} [00:0{at % 10}<00:01, 3.5it/s]{{'loss': {losses[at]:.4f}, 'grad_norm': {1 + at % 3 / 10}, "
        f"'learning_rate': {1e-4 * (1 - at / n):.3e}, 'epoch': {at / n:.2f}}}\n"
        for at in range(n)
    ]
    return "loading the model …\n" + "".join(printed) + "{'train_runtime': 3.2, 'train_loss': 1.9, 'epoch': 1.0}\n"

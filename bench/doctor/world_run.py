"""Runs, really trained by the plain loop and logged by the conventions of trainers; a fault changes loop or log."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.doctor.case import Place
from bench.doctor.grammar import Random
from bench.doctor.loops import VOCABULARY, Loop, cosine, run
from bench.doctor.rows import as_csv, as_json_lines
from distillab.doctor import audit_run
from distillab.records import CheckResult

Log = list[dict[str, float]]
# step, loss, grad_norm, learning_rate, eval_loss as a trainer names them
_NAMES: dict[str, tuple[str, str, str, str, str]] = {
    "transformers": ("step", "loss", "grad_norm", "learning_rate", "eval_loss"),
    "hand-written": ("step", "loss", "grad_norm", "lr", "val_loss"),
    "torchtune": ("global_step", "loss", "grad_norm", "lr", "val_loss"),
    "weights and biases": (
        "train/global_step",
        "train/loss",
        "train/grad_norm",
        "train/learning_rate",
        "eval/loss",
    ),
}
_FORMS = {
    "transformers": ("state", "printed", "jsonl"),
    "hand-written": ("csv", "jsonl"),
    "torchtune": ("jsonl", "csv"),
    "weights and biases": ("jsonl", "csv"),
}


@dataclass(frozen=True)
class LoggedRun:
    """A run, and how it is logged: a row for `every` steps, its loss the mean of theirs.

    of_log: changes to the rows of single steps, before that. accumulation: what the doctor is told.
    """

    trainer: str
    form: str
    loop: Loop
    every: int
    told: bool
    gradients: bool
    of_log: tuple[Callable[[Log], Log], ...] = field(default=())
    joined: Callable[[Sequence[float]], float] = lambda losses: sum(losses) / len(losses)
    accumulation: int | None = None


def flat(step: int) -> float:
    """A constant rate."""
    return 1.0


def warm_then_flat(step: int) -> float:
    """Ten steps of warm-up."""
    return min(1.0, (step + 1) / 10)


def draw_run(draw: Random) -> LoggedRun:
    """A good run: from random or trained weights, on the labels or a teacher."""
    trainer = draw.choice(tuple(_NAMES))
    loop = draw.choice(
        (
            Loop(),
            Loop(seed=1, rate=2e-3),
            Loop(steps=160, seed=2),
            Loop(steps=160, seed=3, schedule=warm_then_flat),
            Loop(teacher="right", seed=4),
            Loop(accumulate=4, seed=5),
            Loop(pretrained=True, rate=3e-4, seed=6),
            Loop(seed=7, batch_size=4, steps=160),
            Loop(seed=8, schedule=cosine(120)),
        )
    )
    return LoggedRun(
        trainer,
        draw.choice(_FORMS[trainer]),
        loop,
        every=draw.choice((1, 1, 5)),
        told=draw.random() < 0.7,
        gradients=draw.random() < 0.8,
        accumulation=loop.accumulate if draw.random() < 0.5 else None,
    )


_DONE: dict[tuple[Path, Loop], Log] = {}


def _log(made: LoggedRun, place: Place) -> Log:
    key = (place.material(), made.loop)
    if key not in _DONE:
        _DONE[key] = run(place, made.loop)
    log = [dict(row) for row in _DONE[key]]
    for change in made.of_log:
        log = change(log)
    rows = []
    for start in range(0, len(log), made.every):
        part = log[start : start + made.every]
        losses = [name for name in part[-1] if "loss" in name and name != "eval_loss"]
        row = {**part[-1], **{name: made.joined([one[name] for one in part]) for name in losses}}
        if not made.gradients:
            row.pop("grad_norm", None)
        rows.append(row)
    return rows


def _written(made: LoggedRun, rows: Log, folder: Path) -> Path:
    names = dict(zip(("step", "loss", "grad_norm", "learning_rate", "eval_loss"), _NAMES[made.trainer], strict=True))
    trained: list[dict[str, float]] = []
    for row in rows:
        named = {names.get(name, name): value for name, value in row.items()}
        held_out = named.pop(names["eval_loss"], None)
        trained.append(named)
        if held_out is not None:
            trained.append({names["step"]: row["step"], names["eval_loss"]: held_out})
    if made.form == "state":
        path = folder / "trainer_state.json"
        path.write_text(json.dumps({"log_history": trained, "max_steps": made.loop.steps}), encoding="utf-8")
    elif made.form == "printed":
        path = folder / "train.log"
        told = [{k: round(v, 4) if "loss" in k else v for k, v in row.items()} for row in trained]
        path.write_text("\n".join(str(row) for row in told), encoding="utf-8")
    elif made.form == "csv":
        path = as_csv(trained, folder / "log.csv")
    else:
        path = as_json_lines(trained, folder / "log.jsonl")
    return path


def examine_run(made: LoggedRun, place: Place) -> Sequence[CheckResult]:
    """The doctor's checks of the log; it may be told the vocabulary and whether the student began untrained."""
    path = _written(made, _log(made, place), place.scratch)
    # the held-out figure is a cross-entropy; with a teacher the training loss is not
    return audit_run(
        path,
        vocabulary=VOCABULARY if made.told else None,
        random_student=not made.loop.pretrained if made.told else None,
        accumulation=made.accumulation,
    ).checks

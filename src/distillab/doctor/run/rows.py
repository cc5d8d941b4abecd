"""Rows of a log (column -> value) of any trainer -> points, and parts of its loss. Columns are known by name alone."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distillab.doctor.run.series import HeldOutPoint, RunFacts, RunSeries, StepPoint
from distillab.errors import DataError, near_names

# distillab's name -> other trainers' names, after "/", "-" and " " became "_", in small letters; the first counts
_TRAINING: dict[str, tuple[str, ...]] = {
    "loss": (
        "loss",
        "train_loss",
        "training_loss",
        "loss_train",
        "total_loss",
        "train_total_loss",
        "actor_distillation_loss",
    ),
    "grad_norm": ("grad_norm", "train_grad_norm", "gradient_norm", "global_grad_norm", "actor_grad_norm"),
    "learning_rate": ("learning_rate", "lr", "train_learning_rate", "train_lr", "actor_lr"),
}
# of the answers that a student writes in training: TRL's names, then verl's
_WRITTEN: dict[str, tuple[str, ...]] = {
    "length_mean": ("completions_mean_length", "response_length_mean"),
    "truncated": ("completions_clipped_ratio", "response_length_clip_ratio"),
    "student_entropy": ("entropy", "actor_entropy"),
    "teacher_entropy": ("teacher_entropy",),
    "top16_mass_student": ("actor_distillation_student_mass",),
    "top16_mass_teacher": ("actor_distillation_teacher_mass",),
    "sampler_gap": ("sampling_sampling_logp_difference_mean",),
    "sampler_gap_probability": ("training_rollout_probs_diff_mean",),
}
_HELD_OUT: dict[str, tuple[str, ...]] = {
    "loss": ("eval_loss", "val_loss", "valid_loss", "validation_loss", "held_out_loss", "held_out_nats_per_token"),
    "accuracy": ("eval_mean_token_accuracy", "eval_token_accuracy", "held_out_token_accuracy", "val_token_accuracy"),
    "calibration_error": ("eval_ece", "eval_expected_calibration_error", "expected_calibration_error", "ece"),
}
_STEP = ("step", "global_step", "train_global_step", "_step", "iteration", "iter", "training_global_step")
_EPOCH = ("epoch", "train_epoch")
_COSINE = re.compile(r"(?:grad|gradient)_cos(?:ine)?_(.+)")
_MEANT = frozenset(name for names in _TRAINING.values() for name in names)
# the line that transformers writes last: a mean over the run, no step of it
_SUMMARY = ("train_runtime", "train_samples_per_second")
_LARGEST_STEP = 10**12
_SHOWN = 8
_KNOWN = frozenset(
    name
    for names in (*_TRAINING.values(), *_WRITTEN.values(), *_HELD_OUT.values(), _STEP, _EPOCH, _SUMMARY)
    for name in names
)

_HELD_OUT_WORDS = frozenset(("eval", "val", "valid", "validation", "test", "dev", "heldout"))
_LOSS = frozenset(("loss", "losses", "kl", "kld", "js", "jsd", "ce", "nll", "mse", "divergence"))
_WEIGHT = frozenset(("weight", "coef", "coeff", "coefficient", "alpha", "lambda", "scale"))
_SETTINGS = frozenset(("lr", "rate", "temperature", "beta", "ratio", "count", "tokens", "num", "step", "type", "name"))
_SUMMARIES = frozenset(("best", "min", "max", "target", "initial", "ema", "std", "var"))
_OTHER = _WEIGHT | _SETTINGS | _SUMMARIES
_SAYS_NOTHING = frozenset(("loss", "losses", "train", "training"))


@dataclass(frozen=True)
class LogRow:
    """One entry of a log: its place, and its columns."""

    where: str
    values: Mapping[str, Any]


def series_of_rows(
    rows: Sequence[LogRow], *, source: str, place: str, facts: RunFacts, notes: Sequence[str]
) -> RunSeries:
    """Return the points of a log.

    Args:
        rows: in the order of the log.
        source: the kind of log, for people.
        place: the file, for messages.
    Raises:
        DataError: no entry has a column that means a loss; or a value is no number.
    """
    steps: list[StepPoint] = []
    held_out: list[HeldOutPoint] = []
    seen: dict[str, None] = {}
    others: dict[str, None] = {}
    counted = 0
    has_steps = False
    for row in rows:
        inner = row.values.get("data")  # of verl's file of JSON lines
        values = {**row.values, **(inner if isinstance(inner, dict) else {})}
        named = {_plain(name): value for name, value in values.items() if value is not None and value != ""}
        seen.update(dict.fromkeys(named))
        if any(name in named for name in _SUMMARY):
            continue
        training = _chosen(named, _TRAINING, row.where)
        measured = _chosen(named, _HELD_OUT, row.where)
        parts, weights = parts_of(named, _MEANT)
        pairs = {match[1]: name for name in named if (match := _COSINE.fullmatch(name))}
        cosines = {pair: as_number(named[name], column=name, where=row.where) for pair, name in pairs.items()}
        others.update(dict.fromkeys(name for name in named if name not in parts and not _is_known(name)))
        trained = "loss" in training or "grad_norm" in training or bool(parts)
        if not trained and not measured:
            continue
        step, epoch = _step(named, row.where), _number(named, _EPOCH, row.where)
        has_steps = has_steps or step is not None
        counted += trained
        at = counted if step is None else step
        if trained:
            written = _chosen(named, _WRITTEN, row.where)
            of_loss: dict[str, Any] = {"parts": parts, "weights": weights, "cosines": cosines, "written": written}
            steps.append(StepPoint(at, row.where, epoch=epoch, **training, **of_loss))
        if measured:
            held_out.append(HeldOutPoint(at, row.where, epoch=epoch, **measured))
    if not steps and not held_out:
        raise DataError(
            "No column of the log is a known loss.",
            where=place,
            facts=[f"columns: {', '.join(list(seen)[:12]) or 'none'}", *_near(seen)],
            fix="name the columns loss, eval_loss, grad_norm, learning_rate, step (also read: train/loss, val_loss, "
            "eval/loss, lr, global_step)",
        )
    note = [] if has_steps else ["the log has no step numbers: its training entries are counted"]
    if others:
        shown = ", ".join(list(others)[:_SHOWN]) + (", …" if len(others) > _SHOWN else "")
        note.append(f"columns that are not read: {shown}")
    return RunSeries("", source, tuple(steps), tuple(held_out), facts, (*notes, *note))


def _is_known(name: str) -> bool:
    return name in _KNOWN or names_weight(name) or _COSINE.fullmatch(name) is not None


def _plain(name: str) -> str:
    return re.sub(r"[/\-. ]+", "_", name.strip().lower())


def _chosen(named: Mapping[str, Any], table: Mapping[str, tuple[str, ...]], where: str) -> dict[str, Any]:
    found = {name: _number(named, column, where) for name, column in table.items()}
    return {name: value for name, value in found.items() if value is not None}


def _number(named: Mapping[str, Any], names: Sequence[str], where: str) -> float | None:
    for name in names:
        if name in named:
            return as_number(named[name], column=name, where=where)
    return None


def as_number(value: Any, *, column: str, where: str) -> float:
    """Return a logged value as a number; NaN and ±inf too, because logs with them are examined.

    Raises:
        DataError: it is none.
    """
    if (number := _read_number(value)) is not None:
        return number
    raise DataError(
        "A value in the log is not a number.",
        where=where,
        facts=[f"{column}: {str(value)[:60]!r}"],
        fix="repair or remove the entry; no value is skipped silently",
    )


def _step(named: Mapping[str, Any], where: str) -> int | None:
    value = _number(named, _STEP, where)
    if value is None:
        return None
    if not math.isfinite(value) or not 0 <= value <= _LARGEST_STEP:
        raise DataError("The number of a step is a whole number from 0.", where=where, facts=[f"found: {value}"])
    return int(value)


def _near(seen: Mapping[str, None]) -> list[str]:
    known = [name for table in (_TRAINING, _HELD_OUT) for names in table.values() for name in names]
    return [f"{name}: {near}" for name in seen if (near := near_names(name, known)).startswith("did")][:3]


def parts_of(named: Mapping[str, Any], known: frozenset[str]) -> tuple[dict[str, float], dict[str, float]]:
    """Return (part of the training loss -> value, part -> its weight) of one entry; only finite numbers.

    >>> parts_of({"loss": 2.0, "kd_loss": "0.7", "kd_weight": 0.5, "eval_kd_loss": 1.0, "loss_type": "kd"}, {"loss"})
    ({'kd_loss': 0.7}, {'kd_loss': 0.5})

    Args:
        named: plain column -> value.
        known: columns that mean something else.
    """
    numbers = {name: value for name in named if name not in known and (value := _read_number(named[name])) is not None}
    words = {name: frozenset(name.split("_")) for name in numbers}
    parts = {
        name: value
        for name, value in numbers.items()
        if words[name] & _LOSS and not words[name] & (_HELD_OUT_WORDS | _OTHER) and not name.startswith("held_out")
    }
    settings = [name for name in numbers if names_weight(name)]
    weights = {
        name: numbers[setting]
        for name in parts
        for setting in settings
        if (stem := words[name] - _SAYS_NOTHING) and stem <= words[setting]
    }
    return parts, weights


def names_weight(name: str) -> bool:
    """Whether a plain column is the weight of a part of the training loss."""
    words = frozenset(name.split("_"))
    return bool(words & _WEIGHT) and not words & _HELD_OUT_WORDS


def significant_digits(value: float) -> int:
    """Return the digits of a number as it was logged, from the first that is not 0.

    >>> significant_digits(0.0), significant_digits(0.50), significant_digits(0.6931)
    (0, 1, 4)
    """
    return len(re.sub(r"e.*", "", repr(value)).strip("-0.").replace(".", "").lstrip("0"))


def _read_number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None

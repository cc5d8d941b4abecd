"""Logs with columns that never change, as CSV, JSON, JSON lines and a trainer's state; and constants that are right."""

from __future__ import annotations

import json
import math
from typing import Any

from tests.doctor.run_samples import Case, Row, curve, linear, lines, steady, text

_STEPS = 80
_SOUND: dict[str, list[float]] = {
    "step": [float(at + 1) for at in range(_STEPS)],
    "loss": curve(_STEPS, 3.0, 1.2),
    "grad_norm": steady(_STEPS),
    "learning_rate": linear(_STEPS),
    "ce_loss": curve(_STEPS, 2.0, 0.8, seed=4),
}


def _rows(**changed: list[float] | float) -> list[Row]:
    columns = _SOUND | {name: value if isinstance(value, list) else [value] * _STEPS for name, value in changed.items()}
    return [{name: values[at] for name, values in columns.items()} for at in range(_STEPS)]


def _table(rows: list[Row]) -> str:
    return "\n".join([",".join(rows[0]), *(",".join(str(value) for value in row.values()) for row in rows)]) + "\n"


def _csv(**changed: list[float] | float) -> Any:
    return text("log.csv", _table(_rows(**changed)))


_MOVING = [0.4 + 0.3 * ((at * 7) % 11) / 11 for at in range(_STEPS)]
_GAPS = [value if at % 2 else math.nan for at, value in enumerate(_MOVING)]
_NEAR = [value * 1.0001 for value in _SOUND["loss"]]
_NO_NUMBER = ("loss-not-finite", "error")
_CONSTANT = _rows(kd_loss=0.6931471805599453)

# fmt: off
FAULTS_OF_COLUMNS = [
    Case("a constant part, CSV", _csv(kd_loss=0.6931471805599453), "term-never-changes", "error"),
    Case("a constant part, JSON lines", lines(_CONSTANT), "term-never-changes", "error"),
    Case("a constant part, a JSON list", text("log.json", json.dumps(_CONSTANT)), "term-never-changes", "error"),
    Case("a constant part, a trainer's state", text("trainer_state.json", json.dumps({"log_history": _CONSTANT})),
         "term-never-changes", "error"),
    Case("a constant part, printed", text("train.log", "".join(f"{row}\n" for row in _rows(kd_loss=0.6931))),
         "term-never-changes", "error"),
    Case("a constant part, in a group", _csv(**{"train/distill-kl": 1.234567}), "term-never-changes", "error"),
    Case("a constant part, few digits", _csv(kd_loss=0.7), "term-never-changes", "warning"),
    Case("a part that is zero", _csv(kd_loss=0.0, kd_weight=0.5), "term-never-changes", "warning"),
    Case("a constant part beside no total", _csv(loss=[""] * _STEPS, kd_loss=0.81234), "term-never-changes", "error"),
    Case("a constant loss", _csv(loss=2.302585), "loss-never-changes", "error"),
    Case("a constant loss of few digits", _csv(loss=2.3), "loss-never-changes", "warning"),
    Case("a constant norm", _csv(grad_norm=3.45678), "gradient-norm-never-changes", "warning"),
    Case("a norm after clipping", _csv(grad_norm=0.999999), "gradient-norm-never-changes", "note"),
    Case("a constant accuracy", _csv(eval_loss=curve(_STEPS, 3.0, 1.3, seed=8), eval_mean_token_accuracy=0.4375),
         "evaluation-never-changes", "warning"),
]
# fmt: on

# fmt: off
FAULTS_OF_COLUMNS += [
    Case("a part that became NaN", _csv(kd_loss=[0.5 + at / 99 for at in range(40)] + [math.nan] * 40), *_NO_NUMBER),
    Case("a part that is never added", _csv(ce_loss=_SOUND["loss"], kd_loss=_MOVING), "term-without-effect", "warning"),
    Case("a loss below zero", _csv(loss=[-value for value in _SOUND["loss"]]), "loss-negative", "warning"),
    Case("a loss below zero, in nats", _csv(loss=[-value for value in _SOUND["loss"]]), "loss-negative", "error",
         {"vocabulary": 64}),
    Case("the training loss is evaluated", _csv(eval_loss=_SOUND["loss"]), "evaluation-is-training", "error"),
]
# fmt: on

# fmt: off
GOOD_COLUMNS = [
    Case("a part that is not measured at every step", _csv(kd_loss=_GAPS), severity="warning"),
    Case("a part that is never measured", _csv(kd_loss=math.nan), severity="warning"),
    Case("a divergence that is watched", _csv(ce_loss=_SOUND["loss"], kl=_MOVING), severity="warning"),
    Case("a part whose weight is 0", _csv(ce_loss=_SOUND["loss"], kd_loss=_MOVING, kd_weight=0.0), severity="warning"),
    Case("a held-out loss near the training loss", _csv(eval_loss=_NEAR), severity="warning"),
    Case("losses about zero", _csv(loss=[value - 1.6 for value in _SOUND["loss"]])),
    Case("parts that move", _csv(kd_loss=curve(_STEPS, 1.0, 0.2, seed=5), kd_weight=0.5), severity="warning"),
    Case("a part switched off", _csv(aux_loss=0.0, aux_weight=0.0), severity="warning"),
    Case("a part switched off, its value logged", _csv(kd_loss=0.6931471, lambda_kd=0.0), severity="warning"),
    Case("experts that are not there", _csv(aux_loss=0.0, router_z_loss=0.0), severity="warning"),
    Case("constant settings", _csv(kd_loss_weight=0.5, kd_temperature=2.0, alpha=0.1), severity="warning"),
    Case("a constant learning rate", _csv(learning_rate=1e-4), severity="warning"),
    Case("what does not move at the end", _csv(best_loss=1.234567, loss_scale=65536.0), severity="warning"),
    Case("words in a column", _csv(loss_type=["kd"] * _STEPS, kl=["n/a"] * _STEPS), severity="warning"),  # type: ignore[arg-type]
]
# fmt: on

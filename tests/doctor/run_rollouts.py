"""Logs of students that write their own answers in training, of distillab, TRL and verl: sound, or with one fault."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.doctor.run_samples import Case, curve, lines, ours, real, theirs

_STEPS = 200
_LOSS = curve(_STEPS, 1.2, 0.3)


def _line(start: float, end: float, *, noise: float = 0.05, seed: int = 0) -> list[float]:
    draw = random.Random(seed)
    return [(start + (end - start) * at / (_STEPS - 1)) * math.exp(noise * draw.gauss(0, 1)) for at in range(_STEPS)]


def _share(start: float, end: float) -> list[float]:
    return [min(1.0, max(0.0, value)) for value in _line(start, end, noise=0.1)]


_SOUND: dict[str, Sequence[float]] = {
    "max_new_tokens": [128.0] * _STEPS,
    "length_mean": _line(60, 64),
    "truncated": _share(0.2, 0.1),
    "repetitive": _share(0.1, 0.02),
    "student_entropy": _line(2.0, 1.2),
    "teacher_entropy": _line(1.4, 1.2, seed=1),
    "top16_mass_student": _line(0.7, 0.9, noise=0.02),
    "top16_mass_teacher": _line(0.93, 0.95, noise=0.01),
    "nats_0_32": _line(0.5, 0.2),
    "nats_128_on": _line(0.6, 0.25),
    "teacher_entropy_0_32": _line(1.2, 1.2),
    "teacher_entropy_128_on": _line(1.3, 1.2),
    "sampler_gap": _line(1e-6, 1e-6),
    "nats": _line(0.5, 0.2, seed=2),
    "distinct": [1.0] * _STEPS,
    "distinct_stored": _share(1.0, 1.0),
}


def _ours(**changed: Sequence[float]) -> Callable[[Path], Path]:
    return ours(terms={"token_divergence": _LOSS}, rollout=_SOUND | changed, held_out=((0, 6.5), (200, 3.0)))


def _trl(losses: Sequence[float] = _LOSS, **changed: Sequence[float]) -> Callable[[Path], Path]:
    columns = {
        "completions/mean_length": _line(250, 240),
        "completions/clipped_ratio": _share(0.05, 0.05),
        "entropy": _line(0.8, 0.6),
    } | {_NAMES[name]: values for name, values in changed.items()}
    rows = [row | {name: values[at] for name, values in columns.items()} for at, row in enumerate(theirs(losses))]
    return lines(rows)


_NAMES = {
    "length": "completions/mean_length",
    "cut": "completions/clipped_ratio",
    "entropy": "entropy",
    "gap": "sampling/sampling_logp_difference/mean",
}


def _verl(**changed: Sequence[float]) -> Callable[[Path], Path]:
    columns = {
        "actor/distillation/loss": _LOSS,
        "actor/grad_norm": _line(0.4, 0.3),
        "actor/lr": [1e-6] * _STEPS,
        "actor/entropy": _line(0.8, 0.6),
        "response_length/mean": _line(900, 950),
        "response_length/clip_ratio": _share(0.05, 0.05),
        "actor/distillation/student_mass": _line(0.97, 0.98, noise=0.002),
        "actor/distillation/teacher_mass": _line(0.98, 0.98, noise=0.002),
        "training/rollout_probs_diff_mean": _line(0.003, 0.003),
    } | {name.replace("__", "/"): values for name, values in changed.items()}
    # verl's file logger: the figures are inside of `data`
    rows: list[dict[str, Any]] = [
        {"step": at + 1, "data": {name: values[at] for name, values in columns.items()}} for at in range(_STEPS)
    ]
    return lines(rows)


_LONGER, _CUT = _line(50, 120), _share(0.1, 0.9)
_HORIZON = [16.0 + 112.0 * min(1.0, at / 100) for at in range(_STEPS)]
_AFTER = [value == 128.0 for value in _HORIZON]

# fmt: off
FAULTS_OF_ROLLOUTS = [
    Case("answers grow", _ours(length_mean=_LONGER, truncated=_CUT), "rollouts-grow", "warning"),
    Case("answers grow, TRL", _trl(length=_line(200, 480), cut=_CUT), "rollouts-grow", "warning"),
    Case("answers grow and are no better", _ours(length_mean=_line(40, 90), nats=_line(0.3, 0.34, seed=2)),
         "rollouts-grow", "warning"),
    Case("answers grow, verl", _verl(response_length__mean=_line(900, 3900), response_length__clip_ratio=_CUT),
         "rollouts-grow", "warning"),
    Case("answers grow after the horizon",
         _ours(max_new_tokens=_HORIZON,
              length_mean=[new if after else 16.0 for new, after in zip(_line(20, 120), _AFTER, strict=True)],
              truncated=[cut if after else 1.0 for cut, after in zip(_share(-0.6, 0.9), _AFTER, strict=True)]),
         "rollouts-grow", "warning"),
    Case("stored answers by heart, a few written",
         ours(terms={"token_divergence": _LOSS}, rollout=_SOUND | {"fraction": [0.25] * _STEPS},
              held_out=((0, 6.5), (60, 4.9), (120, 4.95), (200, 5.1))), "overfitting", "warning"),
    Case("all cut", _ours(truncated=[1.0] * _STEPS), "rollouts-truncated", "note"),
    Case("all cut, TRL", _trl(cut=[1.0] * _STEPS), "rollouts-truncated", "note"),
    Case("mass falls", _ours(top16_mass_student=_line(0.8, 0.3, noise=0.02)), "rollouts-collapse", "warning"),
    Case("mass falls, verl", _verl(actor__distillation__student_mass=_line(0.9, 0.2, noise=0.02)),
         "rollouts-collapse", "warning"),
    Case("entropy to zero", _ours(student_entropy=_line(2.0, 0.02)), "rollouts-collapse", "warning"),
    Case("entropy to zero, TRL", _trl(losses=curve(_STEPS, 1.2, 1.0), entropy=_line(0.8, 0.005)), "rollouts-collapse",
         "warning"),
    Case("one answer to all", _ours(distinct=_line(0.98, 0.2, noise=0.02)), "rollouts-same", "warning"),
    Case("answers reused too long", _ours(stale_ess=_line(0.95, 0.2)), "rollouts-stale", "warning"),
    Case("loops", _ours(repetitive=_share(0.05, 0.6)), "rollouts-repeat", "warning"),
    Case("half-updated sampler", _ours(sampler_gap=_line(0.3, 0.3)), "rollouts-stale", "warning"),
    Case("sampler falls behind, TRL", _trl(gap=_line(0.015, 0.08)), "rollouts-stale", "warning"),
    Case("sampler never updated, verl", _verl(training__rollout_probs_diff_mean=_line(0.003, 0.14)), "rollouts-stale",
         "warning"),
    Case("late tokens are not corrected", _ours(nats_128_on=_line(0.3, 0.05), teacher_entropy_128_on=_line(1.6, 2.4)),
         "rollouts-late", "warning"),
]
# fmt: on

# fmt: off
GOOD_ROLLOUTS = [
    Case("sound rollouts", _ours(), severity="warning"),
    Case("sound rollouts, TRL", _trl(), severity="warning"),
    Case("a real DistillationTrainer of TRL", real("good_trl_on_policy.json"), severity="warning"),
    Case("sound rollouts, verl", _verl(), severity="warning"),
    Case("longer and nearer", _ours(length_mean=_line(40, 90)), severity="warning"),
    Case("answers of few classes", _ours(distinct=_line(0.9, 0.17, noise=0.02), distinct_stored=[0.17] * _STEPS),
         severity="warning"),
    Case("answers reused", _ours(stale_ess=_line(0.97, 0.85)), severity="warning"),
    Case("longer and whole", _trl(length=_line(200, 900)), severity="warning"),
    Case("a horizon that grows",
         _ours(max_new_tokens=_HORIZON, length_mean=[0.9 * value for value in _HORIZON],
              truncated=[1.0 if value < 128 else 0.7 for value in _HORIZON]), severity="warning"),
    Case("cut on purpose", _ours(length_mean=[16.0] * _STEPS, truncated=[1.0] * _STEPS), severity="warning"),
    Case("a task with one answer", _trl(losses=curve(_STEPS, 1.2, 0.02), entropy=_line(0.8, 0.01)), severity="warning"),
    Case("as sure as the teacher", _ours(student_entropy=_line(2.0, 0.05), teacher_entropy=_line(0.08, 0.06)),
         severity="warning"),
    Case("the teacher leaves its tokens too",
         _ours(top16_mass_student=_line(0.8, 0.6, noise=0.02), top16_mass_teacher=_line(0.95, 0.7, noise=0.02)),
         severity="warning"),
    Case("no text is read twice",
         ours(terms={"token_divergence": _LOSS}, rollout=_SOUND | {"fraction": [0.75] * _STEPS},
              held_out=((0, 6.5), (60, 4.9), (120, 4.95), (200, 5.1))), severity="warning"),
    Case("bfloat16 engine", _trl(gap=_line(0.02, 0.027)), severity="warning"),
    Case("late tokens are easy", _ours(nats_128_on=_line(0.2, 0.05)), severity="warning"),
    Case("late tokens are hard", _ours(teacher_entropy_128_on=_line(1.6, 2.4)), severity="warning"),
]
# fmt: on

"""Faults planted in logs, each with the id under which it must be found."""

from __future__ import annotations

import json
import math
import random

from tests.doctor.run_samples import (
    UNIFORM,
    Case,
    changed,
    curve,
    linear,
    lines,
    ours,
    printed_run,
    real,
    steady,
    text,
    theirs,
)

_TOY = {"vocabulary": 64, "random_student": True}
_FALLING = curve(200, 3.0, 1.2)
_KD = {
    "cross_entropy": curve(300, UNIFORM, 0.8),
    "token_divergence": curve(300, 6.0, 0.3, seed=1),
    "hidden_states": [24.0, 33.0, 31.0, *curve(297, 25.0, 1.0, seed=2)],
}
_draw = random.Random(5)
_STILL = [UNIFORM * (1 + 0.003 * _draw.gauss(0, 1)) for _ in range(200)]
_POSITIONS = curve(300, UNIFORM, 2.3)
_WORSE = ((0, 6.48), (60, 8.3), (120, 8.9), (180, 9.0), (240, 9.3), (300, 9.4))
_ABOVE = ((0, 6.48), (60, 5.08), (120, 5.3), (180, 5.4), (240, 5.6), (300, 5.7))
_SPIKES = changed(_FALLING, {60: 9.0, 101: 11.0, 150: 7.0})
_JUMPS = changed(steady(200), {60: 30.0, 101: 40.0, 150: 25.0})
_LOOP = ["the lamp is in the hall and " * 6 for _ in range(15)] + [f"short {n}" for n in range(5)]
_RESUMED = [1e-3 * (1 - at / 100) for at in range(80)] + [1e-3 * (1 - at / 120) for at in range(120)]


def _csv(rows: list[dict[str, object]]) -> str:
    names = ["step", "train/loss", "val_loss", "lr", "grad_norm"]
    return "\n".join([",".join(names), *(",".join(str(row.get(name, "")) for name in names) for row in rows)]) + "\n"


_NAN_ROWS: list[dict[str, object]] = [
    {"step": at + 1, "train/loss": value if at < 120 else math.nan, "lr": 1e-3} for at, value in enumerate(_FALLING)
]

# fmt: off
FAULTS = [
    # logs of real trainers
    Case("NaN printed as 0.0, transformers", real("bad_nan.json"), "nan-shown-as-zero", "error"),
    Case("NaN printed as 0, TRL", real("bad_trl_nan.log"), "nan-shown-as-zero", "error"),
    Case("all labels masked", real("bad_masked.json"), "loss-exactly-zero", "error"),
    Case("accumulation, known", real("bad_accumulation.json"), "accumulation-rescales", "error", {"accumulation": 4}),
    Case("accumulation, not known", real("bad_accumulation.json"), "accumulation-rescales", "warning"),
    Case("softmax twice", real("bad_softmax_twice.json"), "loss-flat-near-uniform", "warning", _TOY),
    Case("labels not shifted", real("bad_unshifted.json"), "loss-too-good", "warning", _TOY),
    Case("below entropy", real("bad_unshifted.json"), "loss-below-entropy", "warning", {"entropy_nats": 1.05}),
    Case("rate too high", real("bad_rate_high.json"), "loss-diverges", "warning"),
    Case("rate too high, above log V", real("bad_rate_high.json"), "loss-diverges", "error", {"vocabulary": 64}),
    Case("rate too high, gradient", real("bad_rate_high.json"), "gradient-explodes", "warning"),
    Case("rate too low", real("bad_rate_low.json"), "learning-rate-too-low", "warning", _TOY),
    Case("16 rows", real("bad_overfitting.json"), "overfitting", "warning"),
    Case("rate zero", real("bad_rate_zero.json"), "learning-rate-zero", "error"),
    # the investigation's two cases
    Case("answer at prompt positions", ours(terms={"cross_entropy": _POSITIONS}, held_out=_ABOVE),
         "held-out-never-below-unigram", "error"),
    Case("teacher with other tokens", ours(terms={"token_divergence": curve(300, 5.6, 0.6)}, held_out=_WORSE),
         "held-out-above-uniform", "error"),
    # generated
    Case("NaN in a CSV", text("log.csv", _csv(_NAN_ROWS)), "loss-not-finite", "error"),
    Case("gradient NaN to the end", lines(theirs(_FALLING, norms=[1.0] * 90 + [math.nan] * 110)),
         "gradient-not-finite", "error"),
    Case("gradient zero", lines(theirs(_STILL, norms=[0.0] * 200)), "gradient-zero", "error"),
    Case("gradient not measured", lines(theirs(_FALLING, norms=[0.0] * 200)), "gradient-zero", "warning"),
    Case("spikes", lines(theirs(_SPIKES, norms=_JUMPS)), "loss-spikes", "warning"),
    Case("evaluation of a copy", lines(theirs(_FALLING, held_out=[(s, 2.71828182) for s in (0, 50, 100, 200)])),
         "evaluation-never-changes", "error"),
    Case("evaluation is zero", lines(theirs(_FALLING, held_out=[(s, 0.0) for s in (50, 100, 150, 200)])),
         "evaluation-never-changes", "error"),
    Case("pretrained, made worse",
         ours(init="pretrained", terms={"cross_entropy": curve(300, 2.2, 1.2)},
              held_out=((0, 2.0), (100, 2.6), (200, 2.9), (300, 3.0))), "held-out-worse-than-untrained", "warning"),
    Case("few rows, above log V",
         ours(rows=16, terms={"cross_entropy": curve(300, UNIFORM, 0.02)},
              held_out=((0, 6.5), (60, 5.2), (300, 7.5))), "held-out-above-uniform", "warning"),
    Case("weights drawn too large",
         ours(terms={"cross_entropy": curve(300, 1.6 * UNIFORM, 0.8)},
              held_out=((0, 1.6 * UNIFORM), (150, 1.5), (300, 1.0))), "initial-loss-far-from-uniform", "warning"),
    Case("pretrained, other tokens", ours(init="pretrained", held_out=((0, 9.0), (150, 2.0), (300, 1.0))),
         "initial-loss-far-from-uniform", "warning"),
    Case("nothing learns", ours(terms={"cross_entropy": _STILL}, held_out=((0, 6.46), (100, 6.46), (200, 6.47))),
         "nothing-learned", "error"),
    Case("begins at four times log V", lines(theirs(curve(200, 4 * UNIFORM, 4.0, noise=0.001))),
         "accumulation-rescales", "warning", {"vocabulary": 640, "random_student": True}),
    Case("loss is four times its terms", ours(scale=4.0), "accumulation-rescales", "error"),
    Case("loss is divided by two ranks", ours(scale=0.5), "accumulation-rescales", "error"),
    Case("warm-up to the end", lines(theirs(_FALLING, rates=[1e-5 * (at + 1) for at in range(200)])),
         "schedule-only-warms-up", "warning"),
    Case("resumed without its scheduler", lines(theirs(_FALLING, rates=_RESUMED)), "schedule-restarts", "note"),
    Case("laid for more steps", lines(theirs(_FALLING, rates=linear(500)[:200])), "schedule-cut-short", "note"),
    Case("an epoch's decay at every step",
         lines(theirs([2.0 + 3.0 * 0.85**at for at in range(200)], rates=[1e-3 * 0.9**at for at in range(200)])),
         "schedule-decays-too-early", "note"),
    Case("never decays", lines(theirs(_FALLING, rates=[1e-3] * 200)), "schedule-never-decays", "note"),
    Case("KD without effect",
         ours(terms={"cross_entropy": curve(300, UNIFORM, 0.8), "token_divergence": curve(300, 5.0, 1.0)},
              shares={"cross_entropy": 0.998, "token_divergence": 0.002}), "term-without-effect", "warning"),
    Case("KD of weight 0",
         ours(terms={"cross_entropy": curve(300, UNIFORM, 0.8), "token_divergence": curve(300, 5.0, 1.0)},
              weights={"token_divergence": 0.0}), "term-without-effect", "warning"),
    Case("KD constant", ours(terms={"cross_entropy": curve(300, UNIFORM, 0.8), "token_divergence": [3.25] * 300}),
         "term-never-changes", "error"),
    Case("KD of nothing",
         ours(terms={"cross_entropy": curve(300, UNIFORM, 0.8), "span_likelihood": [0.0] * 300},
              counts={"span_likelihood": 0}), "term-without-positions", "error"),
    Case("terms pull apart",
         ours(
              terms={"cross_entropy": curve(300, UNIFORM, 0.8),
                   "token_divergence": [2 + at / 300 for at in range(300)]}), "terms-fight", "warning"),
    Case("cosines below zero", lines([row | {"grad_cosine/ce_kd": -0.5} for row in theirs(_FALLING)]), "terms-fight",
         "warning"),
    Case("our cosines below zero", ours(terms=_KD, cosines={" ~ ".join(_KD): -0.4}), "terms-fight", "warning"),
    Case("confidence above accuracy",
         ours(calibration=[0.02, 0.05, 0.1, 0.2, 0.25, 0.3], confidence=[0.8] * 6, accuracy=[0.5] * 6),
         "over-confident", "warning"),
    Case("calibration logged", ours(calibration=[0.02, 0.05, 0.1, 0.2, 0.25, 0.3]), "over-confident", "warning"),
    Case("surer than right",
         ours(held_out=((0, 6.5), (60, 2.0), (120, 1.2), (180, 1.3), (240, 1.4), (300, 1.5)),
              accuracy=[0.0, 0.5, 0.6, 0.6, 0.61, 0.61]), "over-confident", "warning"),
    Case("still falling", ours(held_out=((0, 6.5), (60, 5.5), (120, 4.4), (180, 3.4), (240, 2.4), (300, 1.6))),
         "budget-too-small", "note"),
    Case("two runs in one file", lines([*theirs(_FALLING)[:120], *theirs(_FALLING)]), "steps-out-of-order", "warning"),
    Case("two runs printed", text("train.log", printed_run() + printed_run(seed=1)), "steps-out-of-order", "warning"),
    Case("killed", ours(planned=900), "run-not-finished", "note"),
    Case("never ends", ours(stopped=0.0, mean_tokens=32.0), "never-stops", "warning"),
    Case("loops", ours(answers=_LOOP), "repeats-itself", "warning"),
    Case("one answer", ours(answers=["the"] * 15 + [f"a {n}" for n in range(5)]), "same-answer", "warning"),
    Case("ends at once", ours(mean_tokens=1.1), "answers-nearly-empty", "warning"),
]
# fmt: on

_SCALER = [*[math.inf] * 8, *steady(192)]
_INVERSE_ROOT = [1e-3 * min((at + 1) / 20, math.sqrt(20 / (at + 1))) for at in range(200)]
_FLOOR = [1e-3 * (0.5 + 0.25 * (1 + math.cos(math.pi * at / 200))) for at in range(200)]
_ROUGH = curve(400, 1.4, 1.3, noise=0.3)
_STATE = {
    "log_history": [*theirs(_FALLING, held_out=[(100, 1.6), (200, 1.3)]), {"train_runtime": 3.0, "train_loss": 1.7}]
}

# no error in any; where `severity` is "warning" none of that either
# fmt: off
GOOD = [
    *(
        Case(name, real(name), severity="warning", given={"vocabulary": 64, "random_student": fresh})
        for name, fresh in (
            ("good_linear.json", True),
            ("good_cosine.json", True),
            ("good_constant.json", True),
            ("good_restarts.json", True),
            ("good_accumulation.json", True),
            ("good_lora.json", False),
            ("good_pretrained.json", False),
            ("good_trl_sft.log", True),
            ("good_trl_sft_cosine.log", True),
        )
    ),
    Case("ours", ours(), severity="warning"),
    Case("three terms",
         ours(terms=_KD, norms=[80.0, 240.0, 230.0, *steady(297)],
              shares={"cross_entropy": 0.3, "token_divergence": 0.3, "hidden_states": 0.4}), severity="warning"),
    Case("less sure than right",
         ours(calibration=[0.3] * 6, confidence=[0.3] * 6, accuracy=[0.6, 0.61, 0.62, 0.6, 0.61, 0.6]),
         severity="warning"),
    Case("our cosines above zero", ours(terms=_KD, cosines={" ~ ".join(_KD): 0.4}), severity="warning"),
    Case("KD alone", ours(terms={"token_divergence": curve(300, 6.2, 0.2)}), severity="warning"),
    Case("pretrained",
         ours(init="pretrained", terms={"cross_entropy": curve(300, 2.1, 1.7, noise=0.2)},
              held_out=((0, 2.1), (150, 1.8), (300, 1.75))), severity="warning"),
    Case("few rows",
         ours(rows=64, terms={"cross_entropy": curve(300, UNIFORM, 0.05)},
              held_out=((0, 6.5), (60, 3.0), (120, 2.8), (300, 3.5)))),
    Case("16 rows by heart",
         ours(rows=16, terms={"cross_entropy": curve(300, UNIFORM, 0.01)},
              held_out=((0, 6.5), (60, 5.4), (300, 9.0)))),
    Case("float16 scaler settles", lines(theirs(_FALLING, norms=_SCALER)), severity="warning"),
    Case("sharded, norm not measured", lines(theirs(_FALLING, norms=[0.0] * 200))),
    Case("inverse square root", lines(theirs(_FALLING, rates=_INVERSE_ROOT)), severity="warning"),
    Case("cosine to a floor", lines(theirs(_FALLING, rates=_FLOOR)), severity="warning"),
    Case("rough and slow", lines(theirs(_ROUGH)), severity="warning"),
    Case("on-policy, rising a little", lines(theirs([0.3 + 0.0002 * at + 0.02 * math.sin(at) for at in range(300)])),
         severity="warning"),
    Case("weights of one half", ours(terms=_KD, weights=dict.fromkeys(_KD, 0.5)), severity="warning"),
    Case("early in its warm-up",
         ours(planned=4000, terms={"cross_entropy": _STILL[:60]}, rates=[1e-6 * (at + 1) for at in range(60)],
              held_out=((0, 6.46), (60, 6.46)))),
    Case("trainer_state", text("trainer_state.json", json.dumps(_STATE)), severity="warning"),
    Case("printed, old style", text("train.out", printed_run()), severity="warning"),
    Case("evaluated before one step", lines(theirs(_FALLING, held_out=[(0, 3.0), (200, 1.3)])), severity="warning"),
]
# fmt: on

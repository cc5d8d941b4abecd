"""Does what is learned hold on rows that were not trained on?"""

from __future__ import annotations

import math
from collections.abc import Sequence

from distillab.doctor.checks import Checked, Scope, Skipped, check, from_page
from distillab.doctor.run.series import CROSS_ENTROPY, HeldOutPoint, RunSeries, trend
from distillab.records import Finding

_Curve = Sequence[tuple[int, float]]

_FEW_EPOCHS = 2.0  # until here most rows that a step reads are new or nearly so: its loss is like a held-out one
_ABOVE_NATS = 0.05
_OVERFIT = 0.03
_CONTRADICTS = 0.8
_LEARNED = 0.9
_BY_HEART = 0.5
_EXPECTED_ERROR = 0.1
_NATS_ROSE = 0.05
_KNOWS_SOMETHING = 0.2  # of the tokens; below, loss and accuracy show something worse


@check("run-held-out")
def check_held_out(series: RunSeries) -> Checked:
    """Check for an evaluation that never changes, a held-out loss above log V, unigram or its start, and overfitting.

    The first epochs distinguish causes: while rows are new, the training loss is itself a held-out loss. A gap between
    the two at that time cannot come from learning rows by heart.
    """
    held_out = series.held_out_losses()
    yield Scope(f"{len(held_out)} held-out losses over {series.last_step:,} steps")
    constant = _never_changes(series)
    if constant is not None:
        yield constant
        return
    if len(held_out) < 2:
        raise Skipped("fewer than two held-out losses")
    found = _above_uniform(series, held_out) or _above_unigram(series, held_out) or _above_start(series, held_out)
    yield found
    yield _overfitting(series, held_out) if found is None or _by_heart(series, held_out) else None


def _never_changes(series: RunSeries) -> Finding | None:
    # exact zeros are no losses for the other checks, but here they are the sign
    points = [(point.step, point.loss) for point in series.held_out if point.loss is not None]
    values = [value for _, value in points]
    if len(values) < 3 or len(set(values)) > 1 or not _moved(series):
        return None
    certain = series.facts.significant_digits >= 6 or _moved(series, by=0.2)
    return from_page(
        "evaluation-never-changes",
        f"{len(values)} measurements from step {points[0][0]:,} to {points[-1][0]:,}, all {values[0]!r}",
        _training_line(series),
        case="loss",
        severity="error" if certain else "warning",
    )


def _above_uniform(series: RunSeries, held_out: _Curve) -> Finding | None:
    uniform = series.facts.uniform_nats
    step, last = held_out[-1]
    if uniform is None or not series.facts.held_out_is_cross_entropy or last <= uniform + _ABOVE_NATS:
        return None
    if not _moved(series, by=0.03):
        return None  # a run whose training loss does not fall belongs to the check of the learning rate
    early = [(at, value) for at, value in held_out[1:] if _few_epochs(series, at)]
    # no measurement of the first epochs is better than the start: the loss never pointed the right way
    never_better = bool(early) and min(value for _, value in early) >= held_out[0][1] and held_out[0][0] == 0
    kd_alone = bool(series.term_names) and CROSS_ENTROPY not in series.term_names
    return from_page(
        "held-out-above-uniform",
        f"held-out {last:.3f} nats per token at step {step:,}; log V, a uniform guess, is {uniform:.3f}",
        _start_line(held_out),
        _training_line(series),
        *_epoch_line(series, early),
        case="distillation alone" if kd_alone else "any loss",
        severity="error" if never_better else "warning",
        example=_curve_lines(held_out),
    )


def _above_unigram(series: RunSeries, held_out: _Curve) -> Finding | None:
    unigram, training = series.facts.unigram_nats, series.training_nats()
    if unigram is None or not series.facts.held_out_is_cross_entropy or len(training) < 10:
        return None
    after_start = [(step, value) for step, value in held_out if step > 0]
    if not after_start or min(value for _, value in after_start) <= unigram:
        return None
    ends = trend([value for _, value in training])
    if not ends.fell() or ends.tail >= _CONTRADICTS * unigram:
        return None
    contradictions = [
        (step, near, value)
        for step, value in after_start
        if _few_epochs(series, step) and (near := _training_near(training, step)) is not None and near < unigram
    ]
    return from_page(
        "held-out-never-below-unigram",
        f"best held-out {min(value for _, value in after_start):.3f} nats per token; the unigram line "
        f"(token frequencies alone) is {unigram:.3f}",
        _training_line(series),
        *(
            f"step {step:,}, epoch {series.epoch_at(step) or 0:.2f}: training {near:.3f}, held-out {value:.3f}"
            for step, near, value in contradictions[:2]
        ),
        case="in the first epochs" if contradictions else "later",
        example=_curve_lines(held_out),
    )


def _above_start(series: RunSeries, held_out: _Curve) -> Finding | None:
    first, last = held_out[0][1], held_out[-1][1]
    if held_out[0][0] != 0 or not _moved(series, by=0.03) or min(value for _, value in held_out[1:]) <= first:
        return None
    if last <= first * (1 + _OVERFIT):
        return None
    return from_page(
        "held-out-worse-than-untrained", _start_line(held_out), _training_line(series), example=_curve_lines(held_out)
    )


def _overfitting(series: RunSeries, held_out: _Curve) -> Finding | None:
    best_step, best = min(held_out, key=lambda pair: pair[1])
    step, last = held_out[-1]
    if series.on_own_text:
        return None
    if len(held_out) < 3 or best_step == step or last <= best * (1 + _OVERFIT) or not _moved(series, by=0.03):
        return None
    # at the first measurement it may never have been better than before training; unless it is far below log V
    uniform = series.facts.uniform_nats if series.facts.held_out_is_cross_entropy else None
    if best_step == held_out[0][0] and (best_step == 0 or uniform is None or best >= _LEARNED * uniform):
        return None
    epoch, epochs = series.epoch_at(best_step), series.epoch_at(step)
    # in the first epoch no row was read twice, so that nothing is known by heart
    if (epochs is not None and epochs <= 1) or not _fell_since(series, best_step):
        return None
    return from_page(
        "overfitting",
        f"held-out {best:.4g} at step {best_step:,}, its best; {last:.4g} at step {step:,}, the last",
        f"the best is after {epoch:.1f} passes over the training rows" if epoch else None,
        _training_line(series),
        example=_curve_lines(held_out),
        words={"best_step": f"{best_step:,}", "steps": best_step},
    )


def _by_heart(series: RunSeries, held_out: _Curve) -> bool:
    """Return whether the training cross-entropy ends far below the best held-out loss, which was far below log V."""
    training, uniform = series.training_nats(), series.facts.uniform_nats
    best = min(value for _, value in held_out)
    if uniform is None or len(training) < 3 or best >= _LEARNED * uniform:
        return False
    return trend([value for _, value in training]).tail < _BY_HEART * best


def _moved(series: RunSeries, *, by: float = 0.02) -> bool:
    losses = [value for _, value in series.losses()]
    return len(losses) >= 3 and trend(losses).fell(by)


def _fell_since(series: RunSeries, step: int) -> bool:
    losses = series.losses()
    before, after = _training_near(losses, step), _training_near(losses, series.last_step)
    return before is not None and after is not None and after < 0.98 * before


def _few_epochs(series: RunSeries, step: int) -> bool:
    epoch = series.epoch_at(step)
    return epoch is not None and epoch <= _FEW_EPOCHS


def _training_near(training: _Curve, step: int) -> float | None:
    near = [value for at, value in training if at <= step][-10:]
    return sum(near) / len(near) if near else None


def _start_line(held_out: _Curve) -> str:
    step, value = held_out[0]
    name = "before training" if step == 0 else f"at step {step:,}, the first"
    return f"held-out {value:.3f} {name}; {held_out[-1][1]:.3f} at step {held_out[-1][0]:,}"


def _training_line(series: RunSeries) -> str:
    losses = [value for _, value in series.losses()]
    if len(losses) < 2:
        return "training loss: not logged"
    ends = trend(losses)
    return f"training loss {ends.head:.4g} early, {ends.tail:.4g} at the end"


def _epoch_line(series: RunSeries, early: _Curve) -> tuple[str, ...]:
    if not early:
        return ()
    step, value = early[0]
    return (f"after {series.epoch_at(step) or 0:.2f} passes over the rows it was {value:.3f}",)


def _curve_lines(held_out: _Curve) -> tuple[str, ...]:
    chosen = held_out if len(held_out) <= 8 else [held_out[round(n * (len(held_out) - 1) / 7)] for n in range(8)]
    return tuple(f"step {step}: held-out {value:.3f}" for step, value in chosen)


@check("run-confidence")
def check_confidence(series: RunSeries) -> Checked:
    """Check the logged calibration error; without one, a held-out loss that rises while the accuracy does not fall."""
    errors = [point for point in series.held_out if point.calibration_error is not None]
    both = [
        (p.step, p.loss, p.accuracy)
        for p in series.held_out
        if p.loss is not None and p.accuracy is not None and math.isfinite(p.loss + p.accuracy)
    ]
    yield Scope(f"{len(errors)} calibration errors, {len(both)} held-out losses with accuracy")
    if not errors and len(both) < 3:
        raise Skipped("neither calibration errors nor three held-out losses with accuracy are logged")
    evidence = _logged(errors[-1]) if errors else _surer(both)
    if evidence:
        yield from_page("over-confident", *evidence)


def _logged(last: HeldOutPoint) -> tuple[str, ...]:
    assert last.calibration_error is not None
    if last.calibration_error <= _EXPECTED_ERROR:
        return ()
    evidence = f"expected calibration error {last.calibration_error:.3f} at step {last.step:,}"
    if last.confidence is None or last.accuracy is None:
        return (evidence,)
    if last.confidence <= last.accuracy:
        return ()  # surer than right is what does harm; the error has no sign
    return (evidence, f"mean probability of the top-1 token {last.confidence:.3f}, accuracy {last.accuracy:.3f}")


def _surer(points: Sequence[tuple[int, float, float]]) -> tuple[str, ...]:
    """Return the evidence of a loss that rises at the same accuracy: more confidence where the student is wrong."""
    best, last = min(points, key=lambda point: point[1]), points[-1]
    if best[0] == 0 or last[1] <= (1 + _NATS_ROSE) * best[1] or last[2] < max(best[2], _KNOWS_SOMETHING):
        return ()
    return tuple(
        f"step {step:,}: held-out {loss:.3f}, accuracy {accuracy:.3f}" for step, loss, accuracy in (best, last)
    )

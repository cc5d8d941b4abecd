"""The columns of a log of any trainer: step -> loss, held-out loss, gradient norm, learning rate; each may be missing.

Losses have the unit that was logged: nats per token of the student's vocabulary only where `RunFacts.in_nats`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

# The term of distillab's runs that predicts given answers; its value is comparable with log V and the unigram line.
CROSS_ENTROPY = "cross_entropy"
_WINDOW_SHARE = 0.1
_LONGEST_WINDOW = 50
_NORMAL = 1.4826  # median absolute deviation of a normal variable -> its standard deviation
_SURE = 4.0  # standard errors
_LARGEST_FACTOR = 1e6


@dataclass(frozen=True)
class StepPoint:
    """One logged training step (or the mean over the steps since the last one, where a trainer logs so).

    Attributes:
        step: optimizer step from 1; the number of the entry where the log has no steps.
        where: the line or entry, for messages.
        epoch: passes over the training rows until then.
        terms, weights, counts, shares: of each term of the loss; `shares` of the gradient's norm, where measured.
        parts: of another trainer's loss, by the names of their columns; `weights` of these too, where logged.
        cosines: "a/b" -> cosine between two terms' gradients, where logged.
        written: figures of the answers that the student wrote for this step, by the names of `training.rollout_log`.
    """

    step: int
    where: str
    loss: float | None = None
    grad_norm: float | None = None
    learning_rate: float | None = None
    epoch: float | None = None
    terms: dict[str, float] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)
    parts: dict[str, float] = field(default_factory=dict)
    cosines: dict[str, float] = field(default_factory=dict)
    written: dict[str, float] = field(default_factory=dict)

    @property
    def written_share(self) -> float:
        """The share of the step's answers that the student wrote; all where other trainers log what was written."""
        known = {"length_mean", "truncated"} & set(self.written)
        return self.written.get("fraction", 1.0) if known else 0.0


@dataclass(frozen=True)
class HeldOutPoint:
    """One held-out measurement: its loss, and what else was measured with it (fractions between 0 and 1)."""

    step: int
    where: str
    loss: float | None = None
    accuracy: float | None = None
    confidence: float | None = None
    calibration_error: float | None = None
    epoch: float | None = None


@dataclass(frozen=True)
class RunFacts:
    """What is known beside the log; None: not known.

    Attributes:
        uniform_nats: log V.
        unigram_nats: nats per token of a model that knows only how often each token occurs.
        entropy_nats: the lowest loss that the data allow.
        random_student: whether the student began with random weights.
        accumulation: microbatches an optimizer step, times processes: the factor by which a wrong mean is off.
        planned_steps: of the whole run.
        in_nats: losses are nats per token, by distillab's records or the user's word.
        held_out_is_cross_entropy: the held-out loss is the cross-entropy of given answers (distillab's runs), and not
            whatever loss a trainer evaluates.
        significant_digits: of the logged numbers; 4 where a trainer prints so.
    """

    uniform_nats: float | None = None
    unigram_nats: float | None = None
    entropy_nats: float | None = None
    random_student: bool | None = None
    accumulation: int | None = None
    planned_steps: int | None = None
    in_nats: bool = False
    held_out_is_cross_entropy: bool = False
    significant_digits: int = 15


@dataclass(frozen=True)
class RunSeries:
    """One run, from its log. Points are in the order of the log.

    Attributes:
        name: of the run within the examined place; "" where it is the only one.
        source: the kind of log, for people.
        notes: remarks of the reader: torn lines, lines passed over.
    """

    name: str
    source: str
    steps: tuple[StepPoint, ...]
    held_out: tuple[HeldOutPoint, ...]
    facts: RunFacts = RunFacts()
    notes: tuple[str, ...] = ()

    def in_order(self) -> RunSeries:
        """Return the same with one point a step, in the order of the steps: the later one of two at one step."""
        steps = {point.step: point for point in self.steps}
        held_out = {point.step: point for point in self.held_out}
        return replace(
            self,
            steps=tuple(steps[step] for step in sorted(steps)),
            held_out=tuple(held_out[step] for step in sorted(held_out)),
        )

    @property
    def term_names(self) -> tuple[str, ...]:
        """Terms of the loss, in the order of the log."""
        return tuple(dict.fromkeys(name for point in self.steps for name in point.terms))

    @property
    def on_own_text(self) -> bool:
        """Whether the student wrote at least half of its answers in training, so that it learns none by heart."""
        shares = [point.written_share for point in self.steps]
        return bool(shares) and sum(shares) >= len(shares) / 2

    @property
    def last_step(self) -> int:
        """The last step of the log; 0 where it has none."""
        return max([point.step for point in self.steps] + [point.step for point in self.held_out], default=0)

    def training_nats(self) -> tuple[tuple[int, float], ...]:
        """Return (step, cross-entropy in nats per token) of training, measured values; empty if the log has none."""
        if not self.facts.in_nats:
            return ()
        if self.term_names:
            return _measured((point.step, point.terms.get(CROSS_ENTROPY)) for point in self.steps)
        return self.losses()

    def losses(self) -> tuple[tuple[int, float], ...]:
        """Return (step, training loss as it was logged), measured values."""
        return _measured((point.step, point.loss) for point in self.steps)

    def held_out_losses(self) -> tuple[tuple[int, float], ...]:
        """Return (step, held-out loss as it was logged), measured values."""
        return _measured((point.step, point.loss) for point in self.held_out)

    def grad_norms(self) -> tuple[tuple[int, float], ...]:
        """Return (step, gradient norm), finite values; zeros among them."""
        return _finite((point.step, point.grad_norm) for point in self.steps)

    def learning_rates(self) -> tuple[tuple[int, float], ...]:
        """Return (step, learning rate), finite values."""
        return _finite((point.step, point.learning_rate) for point in self.steps)

    def epoch_at(self, step: int) -> float | None:
        """Return the passes over the training rows at a step: of the last point until then that has them."""
        steps = [(point.step, point.epoch) for point in self.steps]
        known = [*steps, *((point.step, point.epoch) for point in self.held_out)]
        return max(((at, epoch) for at, epoch in known if epoch is not None and at <= step), default=(0, None))[1]


def _measured(found: Iterable[tuple[int, float | None]]) -> tuple[tuple[int, float], ...]:
    # NaN, ±inf and a loss of exactly 0.0 are no measurements of a loss: `check_finite` reports them
    return tuple((step, value) for step, value in _finite(found) if value != 0)


def _finite(found: Iterable[tuple[int, float | None]]) -> tuple[tuple[int, float], ...]:
    return tuple((step, value) for step, value in found if value is not None and math.isfinite(value))


@dataclass(frozen=True)
class Trend:
    """A curve's ends.

    Attributes:
        head, tail: median of the first and last tenth of the values (at most 50).
        noise: standard deviation of a value around the curve, from the differences of neighbours.
        error: standard error of tail − head.
    """

    head: float
    tail: float
    noise: float
    error: float

    def fell(self, share: float = 0.03) -> bool:
        """Return whether the end is below the beginning by more than the noise, and by at least this share of it."""
        return self.head - self.tail > max(share * abs(self.head), _SURE * self.error)

    def rose(self, share: float = 0.03) -> bool:
        """Return whether the end is above the beginning by more than the noise, and by at least this share of it."""
        return self.tail - self.head > max(share * abs(self.head), _SURE * self.error)


def trend(values: Sequence[float]) -> Trend:
    """Return the ends and the noise of at least two values."""
    window = min(_LONGEST_WINDOW, max(1, int(len(values) * _WINDOW_SHARE)))
    spread = noise(values)
    # standard error of a median is about 1.25 times that of a mean
    error = 1.25 * spread * (2 / window) ** 0.5
    return Trend(statistics.median(values[:window]), statistics.median(values[-window:]), spread, error)


def noise(values: Sequence[float]) -> float:
    """Return the standard deviation around a slow curve: from differences of neighbours, so that the slope has no part.

    For fewer than eight values the result is 0.
    """
    if len(values) < 8:
        return 0.0
    steps = [later - earlier for earlier, later in pairwise(values)]
    middle = statistics.median(steps)
    return _NORMAL * statistics.median([abs(step - middle) for step in steps]) / 2**0.5


def slope(steps: Sequence[int], values: Sequence[float]) -> tuple[float, float]:
    """Return the least-squares slope a step, and its standard error, of at least three points at differing steps."""
    x = np.asarray(steps, dtype=np.float64)
    y = np.asarray(values, dtype=np.float64)
    x = x - x.mean()
    size = float((x * x).sum())
    # values near the end of float64 give an infinite slope, with which nothing is found
    with np.errstate(over="ignore", invalid="ignore"):
        rate = float((x * y).sum()) / size
        rest = y - y.mean() - rate * x
        return rate, float((rest * rest).sum() / max(1, len(x) - 2) / size) ** 0.5


def spikes(values: Sequence[float], *, factor: float) -> list[int]:
    """Return the places of single values above `factor` times the median of their neighbours, far outside their noise.

    A value is lone where the curve comes back within the neighbourhood, so that a jump to a new level is none. The
    first tenth is not looked at: curves move fast there.
    """
    reach, found = 10, []
    for place in range(max(reach, len(values) // 10), len(values)):
        around = [*values[place - reach : place], *values[place + 1 : place + 1 + reach]]
        after = values[place + 1 : place + 1 + reach]
        if len(after) < 3:
            break
        middle = statistics.median(around)
        spread = _NORMAL * statistics.median([abs(value - middle) for value in around])
        lone = statistics.median(after) < middle + (values[place] - middle) / 2
        if lone and values[place] > factor * middle > 0 and values[place] - middle > 10 * spread:
            found.append(place)
    return found


def near_factor(ratio: float, *, within: float = 0.1) -> int | None:
    """Return the whole k ≥ 2 with ratio ≈ k or ratio ≈ 1/k (given as −k), else None.

    >>> near_factor(3.98), near_factor(0.2503), near_factor(1.3)
    (4, -4, None)
    """
    if not 1 / _LARGEST_FACTOR < ratio < _LARGEST_FACTOR:
        return None
    size, sign = (ratio, 1) if ratio >= 1 else (1 / ratio, -1)
    whole = round(size)
    return sign * whole if whole >= 2 and abs(size / whole - 1) <= within else None

"""The formulas by which a loss function is recognised: the sound ones, and the mistakes that are made with them.

Shape letters: N positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from distillab.divergences.adaptive import adaptive_kl
from distillab.divergences.alpha_beta import alpha_beta
from distillab.divergences.kl import forward_kl, reverse_kl
from distillab.divergences.mixture import jensen_shannon, skewed_forward_kl, skewed_reverse_kl
from distillab.divergences.variation import total_variation

# Formulas whose temperature is looked for finely, and how finely: within (2/3)^16 of a step of the grid.
_REFINED, _THIRDS = 3, 16
# (student logits, teacher logits), both (N, V) and already divided by the temperature -> (N,)
PerPosition = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Formula:
    """One way to compare two rows of logits.

    family: its name, as `expects` takes it, where distillab has it. words: what it is called in a report.
    nats: its values are nats. mistake: why it is none that anybody means, in words.
    """

    family: str
    words: str
    of: PerPosition
    nats: bool = True
    tempered: bool = True
    mistake: str | None = None


def _on_logp(divergence: Callable[..., Tensor], **settings: float) -> PerPosition:
    function = partial(divergence, **settings)
    return lambda s, t: function(student_logp=s.log_softmax(dim=-1), teacher_logp=t.log_softmax(dim=-1))


def _mixed_kl(share: float) -> PerPosition:
    forward, reverse = _on_logp(forward_kl), _on_logp(reverse_kl)
    return lambda s, t: share * forward(s, t) + (1 - share) * reverse(s, t)


def _sorted_distance(s: Tensor, t: Tensor) -> Tensor:
    p, q = t.softmax(dim=-1), s.softmax(dim=-1)
    return (q.sort(dim=-1, descending=True).values - p.sort(dim=-1, descending=True).values).abs().sum(dim=-1)


def _of_likeliest(s: Tensor, t: Tensor) -> Tensor:
    return -s.log_softmax(dim=-1).gather(-1, t.argmax(dim=-1, keepdim=True))[..., 0]


def _twice(divergence: PerPosition) -> PerPosition:
    return lambda s, t: divergence(s.softmax(dim=-1), t.softmax(dim=-1))


def _mistake(words: str, of: PerPosition, why: str) -> Formula:
    return Formula("mistake", words, of, mistake=why)


PLAIN: tuple[Formula, ...] = (
    Formula("forward_kl", "forward KL, KL(teacher ‖ student)", _on_logp(forward_kl)),
    Formula("reverse_kl", "reverse KL, KL(student ‖ teacher)", _on_logp(reverse_kl)),
    Formula("jensen_shannon", "Jensen-Shannon, teacher's weight 0.5", _on_logp(jensen_shannon, teacher_weight=0.5)),
    Formula("total_variation", "total variation", _on_logp(total_variation), nats=False),
    Formula(
        "squared_logits", "squared difference of logits", lambda s, t: (s - t).square().sum(-1), False, tempered=False
    ),
    Formula(
        "squared_probabilities",
        "squared difference of probabilities",
        lambda s, t: (s.softmax(-1) - t.softmax(-1)).square().sum(-1),
        nats=False,
    ),
    Formula("sorted_probabilities", "distance of sorted probabilities", _sorted_distance, nats=False),
    Formula("of_likeliest", "cross-entropy with the teacher's most likely token", _of_likeliest),
)
MISTAKES: tuple[Formula, ...] = (
    _mistake(
        "the student's probabilities are used as log-probabilities",
        lambda s, t: -(t.softmax(-1) * s.softmax(-1)).sum(-1),
        "kl_div(input=softmax(student), …): input must be log_softmax(student)",
    ),
    _mistake(
        "the student's raw logits are used as log-probabilities",
        lambda s, t: -(t.softmax(-1) * s).sum(-1),
        "kl_div(input=student_logits, …): input must be log_softmax(student_logits)",
    ),
    _mistake(
        "the teacher's raw logits are used as probabilities",
        lambda s, t: -(t * s.log_softmax(-1)).sum(-1),
        "the weights of the cross-entropy are raw logits: softmax(teacher_logits) is missing",
    ),
    _mistake(
        "the teacher's log-probabilities are used as probabilities",
        lambda s, t: -(t.log_softmax(-1) * s.log_softmax(-1)).sum(-1),
        "the weights of the cross-entropy are log-probabilities: log_target=True, or exp(), is missing",
    ),
    _mistake(
        "softmax is applied twice to both models, forward KL",
        _twice(_on_logp(forward_kl)),
        "probabilities are passed to a function that applies softmax itself",
    ),
    _mistake(
        "softmax is applied twice to both models, reverse KL",
        _twice(_on_logp(reverse_kl)),
        "probabilities are passed to a function that applies softmax itself",
    ),
    _mistake(
        "softmax is applied twice to the student",
        lambda s, t: -(t.softmax(-1) * s.softmax(-1).log_softmax(-1)).sum(-1),
        "the student's probabilities are passed to a function that applies softmax itself",
    ),
    _mistake(
        "the teacher's probabilities are exponentiated once more",
        lambda s, t: -(t.softmax(-1).softmax(-1) * s.log_softmax(-1)).sum(-1),
        "softmax twice on the teacher, or kl_div(…, target=softmax(teacher), log_target=True)",
    ),
)
_SHARES = tuple(round(0.05 * step, 2) for step in range(1, 20))
WITH_SHARES: tuple[Formula, ...] = (
    *(
        Formula(family, f"{words} {w:g}", _on_logp(divergence, **{setting: w}))
        for family, words, divergence, setting in (
            ("jensen_shannon", "Jensen-Shannon, teacher's weight", jensen_shannon, "teacher_weight"),
            ("skewed_forward_kl", "skewed forward KL, skew", skewed_forward_kl, "skew"),
            ("skewed_reverse_kl", "skewed reverse KL, skew", skewed_reverse_kl, "skew"),
        )
        for w in _SHARES
        if family != "jensen_shannon" or w != 0.5
    ),
    *(Formula("mixed_kl", f"{w:g} · forward KL + {1 - w:g} · reverse KL", _mixed_kl(w)) for w in _SHARES),
    Formula("adaptive_kl", "adaptive KL, head mass 0.5", _on_logp(adaptive_kl, head_mass=0.5)),
    Formula("alpha_beta", "α-β, 0.2 and 0.7", _on_logp(alpha_beta, alpha=0.2, beta=0.7), nats=False),
)


@dataclass(frozen=True)
class Fit:
    """A formula fitted to a measured gradient.

    off: length of what the formula does not explain, as a share of the gradient's. weights: (N,) its factor at each
    position.
    """

    formula: Formula
    temperature: float
    off: float
    weights: Tensor

    @property
    def holds(self) -> bool:
        """Whether the function is this formula, to within the rounding of float32."""
        return self.off < 2e-3

    @property
    def words(self) -> str:
        """Formula and temperature."""
        return f"{self.formula.words}, T = {self.temperature:.3g}" if self.formula.tempered else self.formula.words


def fitted(formula: Formula, temperature: float, student: Tensor, teacher: Tensor, gradient: Tensor) -> Fit:
    """Fit one formula to the gradient (N, V) that a function has at these logits (N, V)."""
    own = reference_gradient(formula, temperature, student, teacher)
    weights = (own * gradient).sum(-1) / own.square().sum(-1).clamp(min=1e-30)
    rest = gradient - weights[:, None] * own
    return Fit(formula, temperature, float(rest.norm() / gradient.norm().clamp(min=1e-30)), weights)


def reference_gradient(formula: Formula, temperature: float, student: Tensor, teacher: Tensor) -> Tensor:
    """Return (N, V) ∂ Σ formula / ∂ student logits, in float64."""
    leaf = student.double().requires_grad_()
    value = formula.of(leaf / temperature, teacher.double() / temperature)
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return gradient


def recognised(student: Tensor, teacher: Tensor, gradient: Tensor, temperatures: tuple[float, ...]) -> Fit:
    """Return the formula that explains a gradient best: (N, V) each.

    Args:
        temperatures: those that are tried first; then all between ¼ and 8 for the formulas without a further setting.
    """
    gradient = gradient.double()
    best: Fit | None = None
    for formulas in (PLAIN, MISTAKES, WITH_SHARES):
        for formula in formulas:
            for temperature in temperatures if formula.tempered else (1.0,):
                fit = fitted(formula, temperature, student, teacher, gradient)
                if fit.holds:
                    return fit
                if best is None or fit.off < best.off:
                    best = fit
    assert best is not None
    searched = [one for one in (*PLAIN, *MISTAKES) if one.tempered and one.family != "of_likeliest"]
    coarse = [
        fitted(formula, 2.0 ** (step / 2), student, teacher, gradient) for formula in searched for step in range(-4, 7)
    ]
    nearest = sorted({id(fit.formula): fit for fit in sorted(coarse, key=_off, reverse=True)}.values(), key=_off)
    for fit in nearest[:_REFINED]:
        warmth = best_temperature(fit.formula, student, teacher, gradient)
        best = min(best, fitted(fit.formula, warmth, student, teacher, gradient), key=_off)
    return best


def _off(fit: Fit) -> float:
    return fit.off


def best_temperature(formula: Formula, student: Tensor, teacher: Tensor, gradient: Tensor) -> float:
    """Return the temperature between ⅛ and 8 at which a formula explains a gradient (N, V) best."""
    gradient = gradient.double()

    def off(power: float) -> float:
        return fitted(formula, 2.0**power, student, teacher, gradient).off

    return float(2.0 ** lowest(off, -3.0, 3.0, steps=24))


def lowest(function: Callable[[float], float], low: float, high: float, *, steps: int) -> float:
    """Return where a function is lowest: on a grid, then by thirds between the neighbours of its best point."""
    grid = [low + (high - low) * step / steps for step in range(steps + 1)]
    best = min(grid, key=function)
    left, right = best - (high - low) / steps, best + (high - low) / steps
    for _ in range(_THIRDS):
        third = (right - left) / 3
        if function(left + third) < function(right - third):
            right -= third
        else:
            left += third
    return (left + right) / 2

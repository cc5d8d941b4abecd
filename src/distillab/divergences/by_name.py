"""Look up divergences by their names in a recipe."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor

from distillab.divergences.adaptive import adaptive_formula, adaptive_kl
from distillab.divergences.alpha_beta import alpha_beta, alpha_beta_formula
from distillab.divergences.fused import Evaluated, Formula
from distillab.divergences.kl import forward_formula, forward_kl, reverse_formula, reverse_kl
from distillab.divergences.mixture import (
    jensen_shannon,
    jensen_shannon_formula,
    skewed_forward_formula,
    skewed_forward_kl,
    skewed_reverse_formula,
    skewed_reverse_kl,
)
from distillab.divergences.variation import total_variation, total_variation_formula
from distillab.errors import ConfigError, near_names

BY_NAME: dict[str, Callable[..., Tensor]] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jensen_shannon": jensen_shannon,
    "skewed_forward_kl": skewed_forward_kl,
    "skewed_reverse_kl": skewed_reverse_kl,
    "adaptive_kl": adaptive_kl,
    "total_variation": total_variation,
    "alpha_beta": alpha_beta,
}

# What these evaluate, with the same parameters.
FORMULAS: dict[str, Callable[..., Evaluated]] = {
    "forward_kl": forward_formula,
    "reverse_kl": reverse_formula,
    "jensen_shannon": jensen_shannon_formula,
    "skewed_forward_kl": skewed_forward_formula,
    "skewed_reverse_kl": skewed_reverse_formula,
    "adaptive_kl": adaptive_formula,
    "total_variation": total_variation_formula,
    "alpha_beta": alpha_beta_formula,
}


def formula(name: str, parameters: Mapping[str, float]) -> Formula:
    """Return the formula of that divergence with its parameters filled in; arguments and errors as for `divergence`."""
    return partial(FORMULAS[name], **divergence(name, parameters).keywords)


def divergence(name: str, parameters: Mapping[str, float]) -> partial[Tensor]:
    """Return the divergence of that name with its parameters filled in.

    Args:
        name: one of `BY_NAME`.
        parameters: exactly the parameters of the divergence apart from its two tensors.
    Returns:
        A function of `student_logp` and `teacher_logp`, keyword-only, both (N, V), that returns (N,).
    Raises:
        ConfigError: the name is unknown, or the parameters are not those of the divergence.

    >>> divergence("jensen_shannon", {"teacher_weight": 0.5}).keywords
    {'teacher_weight': 0.5}
    """
    if name not in BY_NAME:
        raise ConfigError("There is no such divergence.", facts=[f'got "{name}"'], fix=near_names(name, BY_NAME))
    function = BY_NAME[name]
    wanted = sorted(set(inspect.signature(function).parameters) - {"student_logp", "teacher_logp"})
    if sorted(parameters) != wanted:
        raise ConfigError(
            f"The divergence {name} has other parameters.",
            facts=[f"given: {', '.join(sorted(parameters)) or 'none'}", f"its own: {', '.join(wanted) or 'none'}"],
        )
    return partial(function, **parameters)

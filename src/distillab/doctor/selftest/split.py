"""Is an optimizer step the same however it is split, and does its gradient reach every parameter that learns?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distillab.config.terms import LinearWeight, TermConfig
from distillab.doctor.clock import Clock
from distillab.doctor.page import from_page
from distillab.doctor.selftest.messages import left_out, number, scope
from distillab.doctor.selftest.rounding import rounding_of
from distillab.doctor.selftest.setup import Setup
from distillab.doctor.selftest.stepping import Stepped, step, training_of
from distillab.records import CheckResult, Finding

SPLIT, REACH = "selftest-split", "selftest-gradient"
_UNITS = 3.0
_NAMED = 5


@dataclass(frozen=True, eq=False)
class Splits:
    """One optimizer step on the same rows from the same weights: as one microbatch, and row by row."""

    whole: Stepped
    rows: Stepped


def check_steps(setups: Sequence[Setup], clock: Clock) -> tuple[CheckResult, CheckResult]:
    """Make one step of every objective in both ways.

    Args:
        setups: all objectives of the recipe.
        clock: what is left of the time; its unit is set by the first step.
    Returns:
        What was found of the split, and of the gradient.
    """
    missed: list[tuple[str, str]] = []
    not_split: list[tuple[str, str]] = []
    found_split: list[Finding] = []
    found_reach: list[Finding] = []
    looked: list[Setup] = []
    for setup in setups:
        if (refusal := clock.refuses(_UNITS)) is not None:
            missed.append((setup.name, refusal))
            continue
        both = both_splits(setup)
        looked.append(setup)
        # the first step of a process is slower than all others
        clock.measure_unit(min(both.whole.seconds[0], both.rows.seconds[0]))
        found_reach += reach_findings(both.whole, setup)
        if setup.draws:
            not_split.append((setup.name, "the term samples from the teacher, anew for each microbatch"))
        elif len(setup.data.lengths) < 2:
            not_split.append((setup.name, "there is one row, and nothing to split"))
        else:
            found_split += split_findings(both, setup)
    return (
        CheckResult(
            check=SPLIT,
            scope=scope(looked, "a step as one microbatch and row by row"),
            skipped=left_out([*missed, *not_split]),
            findings=tuple(found_split),
        ),
        CheckResult(
            check=REACH,
            scope=scope(looked, "the gradient"),
            skipped=left_out(missed),
            findings=tuple(found_reach),
        ),
    )


def both_splits(setup: Setup) -> Splits:
    """Make the step in both ways, without dropout, every term at the largest weight of its schedule."""
    weighted = setup.with_terms([_at_largest(term) for term in setup.terms])

    def made(microbatch: int | None) -> Stepped:
        training = training_of(weighted, steps=1, microbatch=microbatch, clipped=False)
        return step(weighted, weighted.student(dropout=False), training, gradients=True)

    return Splits(made(None), made(1))


def split_findings(both: Splits, setup: Setup) -> list[Finding]:
    """Return what is wrong with a step that depends on its split like this."""
    rounding = rounding_of(setup)
    whole, rows = both.whole.loss(0), both.rows.loss(0)
    loss_apart = abs(whole - rows) / max(abs(whole), 1e-6)
    apart = difference(both.whole.gradients, both.rows.gradients)
    if loss_apart <= rounding.allowed and apart <= rounding.allowed:
        return []
    terms = [
        f"term {name}: {number(total / max(1, count))} as one microbatch, {number(split / max(1, other))} row by row"
        for (name, (total, count)), (split, other) in zip(
            both.whole.reports[0].terms.items(), both.rows.reports[0].terms.values(), strict=True
        )
    ]
    return [
        from_page(
            "split-changes-step",
            evidence=(
                f"arms {setup.name}: loss {number(whole)} as one microbatch, {number(rows)} row by row",
                f"their gradients differ by {apart:.1%} of their size ({rounding})",
                *terms,
            ),
        )
    ]


def reach_findings(stepped: Stepped, setup: Setup) -> list[Finding]:
    """Return the finding of trainable parameters that no gradient reaches."""
    unreached = [name for name in stepped.learning if not _reached(stepped.gradients.get(name))]
    if not unreached:
        return []
    every = len(unreached) == len(stepped.learning)
    shown = ", ".join(unreached[:_NAMED])
    return [
        from_page(
            "parameters-without-gradient",
            severity="error" if every else "warning",
            evidence=(
                f"arms {setup.name}: {len(unreached)} of {len(stepped.learning)} trainable tensors have no gradient, "
                "or a gradient of zero, in a step in which every term has its largest weight",
                shown + (f" and {len(unreached) - _NAMED} more" if len(unreached) > _NAMED else ""),
            ),
        )
    ]


def difference(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    """Return ‖first − second‖ / ‖first‖ over all parameters; a missing gradient is zero."""
    apart = size = 0.0
    for name in sorted({*first, *second}):
        one, other = first.get(name), second.get(name)
        known = one if one is not None else other
        assert known is not None
        zero = torch.zeros_like(known)
        apart += float(((one if one is not None else zero) - (other if other is not None else zero)).square().sum())
        size += float((one if one is not None else zero).square().sum())
    return (apart / size) ** 0.5 if size else float(apart > 0)


def _reached(gradient: Tensor | None) -> bool:
    return gradient is not None and bool(gradient.any())


def _at_largest(term: TermConfig) -> TermConfig:
    if not isinstance(term.weight, LinearWeight):
        return term
    most = max(term.weight.start, term.weight.end)
    return term.model_copy(update={"weight": LinearWeight(start=most, end=most, balanced=term.weight.balanced)})

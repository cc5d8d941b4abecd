"""What a loss does with numbers that are hard: −inf, large gaps, nothing scored, bfloat16, another width."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from distillab.doctor.checks import from_page
from distillab.doctor.loss.call import fresh_logits
from distillab.doctor.loss.subject import Subject
from distillab.records.findings import Finding

# A student this near to the teacher is what a run ends with.
_NEAR = 0.1
_GAP = 60.0
_MASKED = 3


def number_findings(subject: Subject) -> Iterator[Finding]:
    """Run all of this module's checks."""
    yield from _minus_infinity(subject)
    yield from _large_gaps(subject)
    yield from _nothing_scored(subject)
    yield from _bfloat16(subject)
    yield from _other_width(subject)


def _minus_infinity(subject: Subject) -> Iterator[Finding]:
    batch = subject.batch
    free = torch.ones(batch.student.shape[2], dtype=torch.bool)
    free[batch.labels[batch.labels >= 0]] = False
    ids = free.nonzero()[:_MASKED, 0]
    if len(ids) == 0:
        return

    def masked(logits: torch.Tensor) -> torch.Tensor:
        return logits.index_fill(2, ids, -torch.inf)

    cases = {
        "the teacher's logits of some tokens are −inf": replace(batch, teacher=masked(batch.teacher)),
        "both models' logits of some tokens are −inf": replace(
            batch, teacher=masked(batch.teacher), student=masked(batch.student)
        ),
    }
    evidence = []
    for words, tried in cases.items():
        now = subject.caller.attempt(tried)
        # where the true value is infinite, as a reverse KL's is, the gradient may be what it likes
        if now is not None and now.has_nan and abs(now.value) != float("inf"):
            what = "value and gradient are" if now.value != now.value else "the gradient is"
            evidence.append(f"{words}: {what} NaN")
    if evidence:
        yield from_page("loss-nan-at-minus-infinity", *evidence)


def _large_gaps(subject: Subject) -> Iterator[Finding]:
    batch = subject.batch
    tried = replace(batch, student=batch.student * _GAP, teacher=batch.teacher * _GAP)
    now = subject.caller.attempt(tried)
    if now is not None and not now.finite:
        between = f"logits between {tried.teacher.min():.0f} and {tried.teacher.max():.0f}"
        yield from_page("loss-not-finite-at-large-gaps", f"{between}: value {now.value:g}")


def _nothing_scored(subject: Subject) -> Iterator[Finding]:
    if "labels" not in subject.caller.takes or subject.caller.given == "scored":
        return
    now = subject.caller.attempt(replace(subject.batch, labels=torch.full_like(subject.batch.labels, -100)))
    if now is None or not now.has_nan:
        return
    in_gradient = bool(now.gradient.isnan().any())
    yield from_page(
        "loss-nan-when-nothing-is-scored",
        "all labels -100: value NaN, gradient " + ("NaN" if in_gradient else "finite"),
        case="gradient" if in_gradient else "value",
    )


class _Softmaxes(TorchDispatchMode):
    """The types in which softmaxes come out."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.types: set[torch.dtype] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation, and record its dtype."""
        out = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten._log_softmax.default, torch.ops.aten._softmax.default):
            self.types.add(out.dtype)
        return out


def _bfloat16(subject: Subject) -> Iterator[Finding]:
    with _Softmaxes() as softmaxes:
        subject.caller.attempt(subject.batch)
    low = sorted(str(kind).removeprefix("torch.") for kind in softmaxes.types & {torch.bfloat16, torch.float16})
    if low:
        fact = f"float32 logits were given; a softmax came out in {', '.join(low)}"
        yield from_page("loss-imprecise-in-bfloat16", fact, case="always")
        return
    batch = subject.batch
    near = batch.teacher + _NEAR * fresh_logits(batch, seed=13)
    teacher, student = batch.teacher.bfloat16(), near.bfloat16()
    exact = subject.caller.attempt(replace(batch, student=student.float(), teacher=teacher.float()))
    rounded = subject.caller.attempt(replace(batch, student=student, teacher=teacher))
    if exact is None or rounded is None or not exact.finite:
        return
    size = float(exact.gradient.norm())
    off = float((rounded.gradient - exact.gradient).norm()) / max(size, 1e-30)
    if off < 0.25:
        return
    yield from_page(
        "loss-imprecise-in-bfloat16",
        f"the same logits: value {exact.value:.4g} in float32, {rounded.value:.4g} in bfloat16",
        f"the gradient is off by {off:.0%} of its length",
        case="in bfloat16",
    )


def _other_width(subject: Subject) -> Iterator[Finding]:
    batch = subject.batch
    more = fresh_logits(batch, seed=17)[..., :5]
    wider = replace(batch, teacher=torch.cat([batch.teacher, more], dim=2))
    now = subject.caller.attempt(wider)
    if now is None or not subject.footprint.teacher.any():
        return
    cut = abs(now.value - subject.base.value) < 1e-5 * abs(subject.base.value)
    vocabulary = batch.student.shape[2]
    yield from_page(
        "loss-accepts-other-width",
        f"{vocabulary} tokens of the student, {vocabulary + 5} of the teacher: value {now.value:.4g}",
        f"with the teacher cut to {vocabulary} before its softmax: {subject.base.value:.4g}",
        severity="note" if cut else "warning",
    )


def input_findings(changed: tuple[str, ...]) -> Iterator[Finding]:
    """Return a finding if the function writes into the logits that it is given."""
    if changed:
        yield from_page("loss-changes-its-inputs", *(f"{side}'s logits are changed by the call" for side in changed))

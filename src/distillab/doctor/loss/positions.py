"""Check which positions a loss counts, and whether teacher, labels and mask belong to the right logits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from distillab.doctor.checks import from_page
from distillab.doctor.loss.subject import Subject
from distillab.records.findings import Finding, Severity


def unshifted(subject: Subject) -> bool:
    """Return whether all labels are used one position late, as if the caller had shifted them."""
    late = subject.batch.at_labels(0)
    by_mask = torch.equal(subject.footprint.teacher, late)
    reads_teacher = bool(subject.footprint.teacher.any())
    if subject.footprint.offset:
        return False
    if subject.hard.offset is None:
        return by_mask
    return subject.hard.offset == 0 and (by_mask or not reads_teacher)


def unshifted_findings(subject: Subject, *, severity: Severity) -> Iterator[Finding]:
    """Return findings of labels, and of the mask made from them, that are one position late."""
    if subject.hard.offset == 0:
        yield _labels_not_shifted(0, severity)
    if torch.equal(subject.footprint.teacher, subject.batch.at_labels(0)):
        yield _mask_not_shifted(subject, severity)


def position_findings(subject: Subject) -> Iterator[Finding]:
    """Return all findings on positions, for a function that is called as intended."""
    if subject.caller.given == "scored":
        return
    right, teacher = subject.batch.scored, subject.footprint.teacher
    offset = subject.hard.offset
    if offset == -2:
        yield _shifted_twice("labels", subject)
    elif offset not in (None, -1):
        yield _labels_not_shifted(offset or 0, "error")
    if subject.footprint.offset or subject.footprint.of_other_rows:
        return  # the teacher's part does not belong to these labels
    by_labels = torch.equal(teacher, subject.batch.at_labels(0)), torch.equal(teacher, subject.batch.at_labels(2))
    if by_labels[0]:
        yield _mask_not_shifted(subject, "error")
    elif by_labels[1] and offset != -2:
        yield _shifted_twice("mask", subject)
    elif not by_labels[1]:
        yield from _counted(subject, teacher, "the teacher's part")
        missing = right & ~teacher
        if teacher.any() and missing.any():
            yield _misses(subject, missing)
    own = subject.footprint.student & ~teacher & (subject.hard.weight == 0)
    if offset in (None, -1) and own.any():
        yield from _counted(subject, own, "a part that uses neither teacher nor label there")


def pairing_findings(subject: Subject) -> Iterator[Finding]:
    """Return findings if a position's gradient does not come from the teacher's logits of the same position and row."""
    if subject.footprint.of_other_rows:
        yield _other_rows(subject)
        return
    offset = subject.footprint.offset
    if offset:
        rolled = subject.caller.attempt(
            replace(subject.batch, student=subject.batch.teacher, teacher=subject.batch.teacher.roll(-offset, dims=1))
        )
        yield from_page(
            "loss-reads-teacher-elsewhere",
            f"the teacher's logits of position t change the gradient of the student's position t{offset:+d}",
            f"value at student = teacher: {subject.equal.value:.4g}",
            None if rolled is None else f"value with the teacher {-offset:+d} position: {rolled.value:.4g}",
            case="positions",
        )
    elif subject.footprint.mixed > 0.5:
        yield from_page("loss-mixes-positions", f"so for {subject.footprint.mixed:.0%} of the positions that count")


def _other_rows(subject: Subject) -> Finding:
    batch, pulled = subject.batch, subject.footprint.pulled
    moved = [(of, to) for of, to in enumerate(pulled) if of != to]
    put_back = []
    if sorted(pulled) == list(range(len(pulled))):
        student = torch.empty_like(batch.teacher)
        student[list(pulled)] = batch.teacher
        there = subject.caller.attempt(replace(batch, student=student))
        put_back = [] if there is None else [f"value at student = the teacher's rows in that order: {there.value:.4g}"]
    return from_page(
        "loss-reads-teacher-elsewhere",
        f"{subject.footprint.elsewhere:.0%} of the teacher's positions that count change the gradient of another "
        "row of the student, and not of the same row",
        f"teacher row → student row: {', '.join(f'{of} → {to}' for of, to in moved)}" if moved else None,
        f"value at student = teacher: {subject.equal.value:.4g}",
        *put_back,
        case="rows",
    )


def _labels_not_shifted(offset: int, severity: Severity) -> Finding:
    return from_page(
        "loss-labels-not-shifted",
        f"changing labels[t] changes the gradient at logits[t{offset:+d}]; it must be logits[t-1]",
        case="same position" if offset == 0 else "other position",
        severity=severity,
    )


def _mask_not_shifted(subject: Subject, severity: Severity) -> Finding:
    rows = subject.batch.labels.shape[0]
    return from_page(
        "loss-mask-not-shifted",
        "the teacher's logits count at t where labels[t] is scored; they predict labels[t+1]",
        f"the first answer token is not scored in {rows} of {rows} rows; "
        f"{rows} positions after the last answer token are scored",
        severity=severity,
    )


def _shifted_twice(what: Literal["labels", "mask"], subject: Subject) -> Finding:
    return from_page(
        "loss-labels-shifted-twice",
        f"logits[t] are compared with {what} of t+2, not of t+1 (called with {subject.caller.given})",
        case="labels" if what == "labels" else "mask",
    )


def _counted(subject: Subject, counted: Tensor, part: str) -> Iterator[Finding]:
    batch = subject.batch
    extra = counted & ~batch.scored
    padding = extra & (batch.attention == 0)
    tokens = extra & (batch.attention == 1)
    if padding.any():
        yield from_page(
            "loss-counts-padding",
            f"{int(padding.sum())} of {int(counted.sum())} positions that count are padding ({part})",
            "it is given labels or a mask"
            if subject.takes_mask
            else "it is given neither labels nor a mask, so only its caller can remove padding",
            severity="error" if subject.takes_mask else "warning",
        )
    if tokens.any() and subject.takes_mask:
        yield from_page(
            "loss-counts-prompt",
            f"{int(tokens.sum())} of {int(counted.sum())} positions that count are prompt, or the last token "
            f"of a row ({part})",
        )


def _misses(subject: Subject, missing: Tensor) -> Finding:
    scored = subject.batch.scored
    first = sum(bool(missing[row][scored[row]][0]) for row in range(len(missing)))
    last = sum(bool(missing[row][scored[row]][-1]) for row in range(len(missing)))
    return from_page(
        "loss-misses-scored-positions",
        f"{int(missing.sum())} of {int(scored.sum())} scored positions have no influence",
        f"the first answer token in {first} of {len(missing)} rows, the last in {last}",
    )

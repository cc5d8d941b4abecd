"""Which positions a loss counts, and whether teacher, labels and mask stand beside the right logits."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from distillab.doctor.loss.subject import Subject
from distillab.records.findings import Finding, Severity

_SHIFT = (
    "shift once, inside of the function: logits[:, :-1] beside labels[:, 1:], the mask from the shifted labels",
    'where the caller has shifted already, say so: audit_loss(…, given="shifted")',
)


def unshifted(subject: Subject) -> bool:
    """Whether all that the function reads of labels stands one position late, as if its caller had shifted."""
    late = subject.batch.at_labels(0)
    by_mask = torch.equal(subject.footprint.teacher, late)
    reads_teacher = bool(subject.footprint.teacher.any())
    if subject.footprint.offset:
        return False
    if subject.hard.offset is None:
        return by_mask
    return subject.hard.offset == 0 and (by_mask or not reads_teacher)


def unshifted_findings(subject: Subject, *, severity: Severity) -> list[Finding]:
    """The labels, and the mask that is made from them, one position late."""
    findings = []
    if subject.hard.offset == 0:
        findings.append(_labels_not_shifted(0, severity))
    if torch.equal(subject.footprint.teacher, subject.batch.at_labels(0)):
        findings.append(_mask_not_shifted(subject, severity))
    return findings


def position_findings(subject: Subject) -> list[Finding]:
    """Everything about positions, for a function that is called as it is meant to be called."""
    if subject.caller.given == "scored":
        return []
    findings = []
    right, teacher = subject.batch.scored, subject.footprint.teacher
    offset = subject.hard.offset
    if offset == -2:
        findings.append(_shifted_twice("labels", subject))
    elif offset not in (None, -1):
        findings.append(_labels_not_shifted(offset or 0, "error"))
    if subject.footprint.offset or subject.footprint.of_other_rows:
        return findings  # what is read of the teacher does not stand beside these labels
    by_labels = torch.equal(teacher, subject.batch.at_labels(0)), torch.equal(teacher, subject.batch.at_labels(2))
    if by_labels[0]:
        findings.append(_mask_not_shifted(subject, "error"))
    elif by_labels[1] and offset != -2:
        findings.append(_shifted_twice("mask", subject))
    elif not by_labels[1]:
        findings += _counted(subject, teacher, "what is read from the teacher")
        missing = right & ~teacher
        if teacher.any() and missing.any():
            findings.append(_misses(subject, missing))
    own = subject.footprint.student & ~teacher & (subject.hard.weight == 0)
    if offset in (None, -1) and own.any():
        findings += _counted(subject, own, "a part that reads neither teacher nor label there")
    return findings


def pairing_findings(subject: Subject) -> list[Finding]:
    """Whether a position's gradient comes from the teacher's logits of the same position of the same row."""
    if subject.footprint.of_other_rows:
        return [_other_rows(subject)]
    offset = subject.footprint.offset
    if offset:
        rolled = subject.caller.attempt(
            replace(subject.batch, student=subject.batch.teacher, teacher=subject.batch.teacher.roll(-offset, dims=1))
        )
        shifted = [] if rolled is None else [f"value with the teacher {-offset:+d} position: {rolled.value:.4g}"]
        return [
            Finding(
                id="loss-reads-teacher-elsewhere",
                severity="error",
                title="The student's logits are compared with the teacher's logits of another position.",
                evidence=(
                    f"the teacher's logits of position t change the gradient of the student's position t{offset:+d}",
                    f"value at student = teacher: {subject.equal.value:.4g}",
                    *shifted,
                ),
                explanation="Both models' logits at position t predict token t+1. Shifted against each other they "
                "predict different tokens, and the loss falls while the student learns to repeat or to skip.",
                fix=("cut both sides alike: student_logits[:, :-1] and teacher_logits[:, :-1]",),
            )
        ]
    if subject.footprint.mixed > 0.5:
        return [
            Finding(
                id="loss-mixes-positions",
                severity="warning",
                title="One position's teacher changes the direction of other positions' gradients.",
                evidence=(f"so for {subject.footprint.mixed:.0%} of the positions that count",),
                explanation="Next-token distributions are compared position by position. Something is shared between "
                "positions here: a normalisation over another dimension, or a weight made from the whole batch.",
                fix=("check the dim of every softmax, norm and mean: over the vocabulary it is dim=-1",),
            )
        ]
    return []


def _other_rows(subject: Subject) -> Finding:
    batch, pulled = subject.batch, subject.footprint.pulled
    moved = [(of, to) for of, to in enumerate(pulled) if of != to]
    put_back = []
    if sorted(pulled) == list(range(len(pulled))):
        student = torch.empty_like(batch.teacher)
        student[list(pulled)] = batch.teacher
        there = subject.caller.attempt(replace(batch, student=student))
        put_back = [] if there is None else [f"value at student = the teacher's rows in that order: {there.value:.4g}"]
    return Finding(
        id="loss-reads-teacher-elsewhere",
        severity="error",
        title="Rows of the student are compared with other rows of the teacher.",
        evidence=(
            f"{subject.footprint.elsewhere:.0%} of the teacher's positions that count pull another row of the student, "
            "and not their own",
            *((f"teacher row → student row: {', '.join(f'{of} → {to}' for of, to in moved)}",) if moved else ()),
            f"value at student = teacher: {subject.equal.value:.4g}",
            *put_back,
        ),
        explanation="The student is taught what the teacher said of another text. The loss falls all the same, towards "
        "what all texts have in common.",
        fix=(
            "where the teacher's rows were sorted (by length), put them back: teacher_logits[order.argsort()]",
            "look for a flip, roll or shuffle of one side, and for a view whose first dimension is not the batch",
        ),
    )


def _labels_not_shifted(offset: int, severity: Severity) -> Finding:
    return Finding(
        id="loss-labels-not-shifted",
        severity=severity,
        title="The logits of a position are scored against the label of the same position, not of the next one."
        if offset == 0
        else "The logits are scored against labels of a wrong position.",
        evidence=(f"changing labels[t] moves the gradient at logits[t{offset:+d}]; a causal model's is logits[t-1]",),
        explanation="A causal model's logits at t predict token t+1. Without the shift it learns to copy the token "
        "that it has just read: the loss falls to nearly 0 and the student cannot write.",
        fix=_SHIFT,
    )


def _mask_not_shifted(subject: Subject, severity: Severity) -> Finding:
    rows = subject.batch.labels.shape[0]
    return Finding(
        id="loss-mask-not-shifted",
        severity=severity,
        title="The mask of the teacher's part is one position late against the logits.",
        evidence=(
            "the teacher's logits count at t where labels[t] is scored; they predict labels[t+1]",
            f"{rows} first answer tokens of {rows} rows are not learned; "
            f"{rows} positions after the last answer token are",
        ),
        explanation="The first token of every answer, which decides what kind of answer it is, gets nothing from the "
        "teacher, and what follows the end of the answer is imitated.",
        fix=_SHIFT,
    )


def _shifted_twice(what: Literal["labels", "mask"], subject: Subject) -> Finding:
    return Finding(
        id="loss-labels-shifted-twice",
        severity="error",
        title=f"The {what} are shifted twice against the logits."
        if what == "labels"
        else "The mask is shifted twice against the logits.",
        evidence=(
            f"logits[t] go with {what} of t+2; a causal model's go with t+1 (called with {subject.caller.given})",
        ),
        explanation="The student learns to skip a token: it predicts the one after the next.",
        fix=("shift in one place only: in the data, in the model, or in the loss", _SHIFT[1]),
    )


def _counted(subject: Subject, counted: Tensor, part: str) -> list[Finding]:
    batch = subject.batch
    extra = counted & ~batch.scored
    padding = extra & (batch.attention == 0)
    tokens = extra & (batch.attention == 1)
    findings = []
    if padding.any():
        findings.append(
            Finding(
                id="loss-counts-padding",
                severity="error" if subject.takes_mask else "warning",
                title="Padding is in the loss.",
                evidence=(
                    f"{int(padding.sum())} of {int(counted.sum())} positions that count are padding ({part})",
                    "it is given labels or a mask"
                    if subject.takes_mask
                    else "it is given neither labels nor a mask, so only its caller can remove padding",
                ),
                explanation="The student learns from logits behind the end of a text, which mean nothing, and the "
                "value depends on what a row is batched with.",
                fix=(
                    "multiply by the mask before summing, or select: logits[labels != -100] after the shift",
                    'where the rows are selected before the call, say so: audit_loss(…, given="scored")',
                    "where batches never hold padding: audit_loss(…, padded=False)",
                ),
            )
        )
    if tokens.any() and subject.takes_mask:
        findings.append(
            Finding(
                id="loss-counts-prompt",
                severity="warning",
                title="Tokens that are not scored by the labels are in the loss.",
                evidence=(
                    f"{int(tokens.sum())} of {int(counted.sum())} positions that count are prompt, or the last token "
                    f"of a row ({part})",
                ),
                explanation="The student is also taught to write prompts. This can be meant; where prompts are long, "
                "most of the gradient is about them.",
                fix=("keep the positions whose next label is not -100", "or keep it, and know what the value means"),
            )
        )
    return findings


def _misses(subject: Subject, missing: Tensor) -> Finding:
    scored = subject.batch.scored
    first = sum(bool(missing[row][scored[row]][0]) for row in range(len(missing)))
    last = sum(bool(missing[row][scored[row]][-1]) for row in range(len(missing)))
    return Finding(
        id="loss-misses-scored-positions",
        severity="warning",
        title="Some scored positions get nothing from the teacher.",
        evidence=(
            f"{int(missing.sum())} of {int(scored.sum())} scored positions have no influence",
            f"the first answer token in {first} of {len(missing)} rows, the last in {last}",
        ),
        explanation="Where the function does not choose tokens on purpose, a slice is off by one, or is cut at the "
        "longest prompt of the batch: tokens of the rows with shorter prompts are lost.",
        fix=("select by the labels (labels[:, 1:] != -100), not by lengths",),
    )

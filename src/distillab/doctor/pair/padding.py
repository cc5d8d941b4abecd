"""Check how much probability the teacher gives to ids without a token, or without a token of the student."""

from __future__ import annotations

import torch
from torch import Tensor

from distillab.doctor.page import from_page
from distillab.doctor.pair.queries import affordable_tokens, evaluating, logits_of, read_rows, scored
from distillab.doctor.pair.subject import PairSubject
from distillab.pairing.token_bytes import token_meanings
from distillab.records import CheckResult, Finding

CHECK_ID = "vocabulary padding"
_MOST_TOKENS = 2_048
_MUCH_NOBODYS = 0.01
_MUCH_UNSHARED = 0.05


def check_padding(subject: PairSubject) -> CheckResult:
    """Measure the teacher's probability on ids beyond its tokenizer, and beyond the shared ids."""
    what = "the teacher's probability on ids without a token"
    teacher, lacking = subject.teacher_model, subject.lacking_teacher
    if teacher is None or lacking is not None:
        return CheckResult(check=CHECK_ID, scope=what, skipped=lacking)
    reader = subject.input_reader
    read = read_rows(reader, subject.examples, teacher, most_tokens=min(_MOST_TOKENS, affordable_tokens(teacher)))
    if not read.rows:
        return CheckResult(check=CHECK_ID, scope=what, skipped="no row can be read")
    nobodys, unshared, positions = [], [], 0
    unused_W = torch.zeros(0, dtype=torch.bool)
    for row in read.rows:
        with evaluating(teacher):
            logits = logits_of(teacher, reader, row)[scored(row) - 1].float()
        prob = logits.softmax(dim=-1).cpu()
        positions += len(prob)
        if not len(unused_W):
            unused_W = _unused(subject, prob.shape[1])
        nobodys.append(prob[:, unused_W].sum(dim=1))
        unshared.append(prob[:, subject.contract.shared_width :].sum(dim=1))
    width, unused = len(unused_W), int(unused_W.sum())
    mass, beyond = torch.cat(nobodys), torch.cat(unshared)
    findings = []
    if unused and float(mass.mean()) > _MUCH_NOBODYS:
        findings.append(_padding(mass, unused, width))
    shared = subject.contract.shared_width
    if subject.same_ids and shared < width - unused and float(beyond.mean() - mass.mean()) > _MUCH_UNSHARED:
        findings.append(_unshared(beyond, shared, width))
    scope = f"{width:,} logits, {unused:,} of them without a token, at {positions:,} positions"
    if unused:
        scope += f": {float(mass.mean()):.2g} of the probability"
    return CheckResult(check=CHECK_ID, scope=scope, findings=tuple(findings))


def _unused(subject: PairSubject, width: int) -> Tensor:
    """Return (width,) True where the teacher's tokenizer has no token of that id."""
    meanings = token_meanings(subject.teacher.tokenizer)
    unused = torch.ones(width, dtype=torch.bool)
    for id_, meaning in enumerate(meanings[:width]):
        unused[id_] = meaning.kind == "unused"
    return unused


def _padding(mass: Tensor, unused: int, width: int) -> Finding:
    return from_page(
        "logits-beyond-tokenizer",
        f"{unused:,} of {width:,} logits belong to no token",
        f"they get {float(mass.mean()):.1%} of the probability on average, {float(mass.max()):.1%} at most",
    )


def _unshared(beyond: Tensor, shared: int, width: int) -> Finding:
    return from_page(
        "teacher-outside-shared-ids",
        f"the shared ids are those below {shared:,} of the teacher's {width:,}",
        f"{float(beyond.mean()):.1%} of its probability is on the other ids, on average over the data's positions",
    )

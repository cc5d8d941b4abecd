"""Check how much probability the teacher gives to ids without a token, or without a token of the student."""

from __future__ import annotations

import torch
from torch import Tensor

from distillab.doctor.checks import Checked, Scope, check
from distillab.doctor.page import from_page
from distillab.doctor.pair.queries import affordable_tokens, evaluating, logits_of, readable_rows, scored
from distillab.doctor.pair.subject import PairSubject
from distillab.pairing.token_bytes import token_meanings

_MOST_TOKENS = 2_048
_MUCH_NOBODYS = 0.01
_MUCH_UNSHARED = 0.05


@check("vocabulary padding")
def check_padding(subject: PairSubject) -> Checked:
    """Measure the teacher's probability on ids beyond its tokenizer, and beyond the shared ids."""
    yield Scope("the teacher's probability on ids without a token")
    teacher = subject.running_teacher
    reader = subject.input_reader
    read = readable_rows(reader, subject.examples, teacher, most_tokens=min(_MOST_TOKENS, affordable_tokens(teacher)))
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
    of_it = f": {float(mass.mean()):.2g} of the probability" if unused else ""
    yield Scope(f"{width:,} logits, {unused:,} of them without a token, at {positions:,} positions{of_it}")
    if unused and float(mass.mean()) > _MUCH_NOBODYS:
        yield from_page(
            "logits-beyond-tokenizer",
            f"{unused:,} of {width:,} logits belong to no token",
            f"they get {float(mass.mean()):.1%} of the probability on average, {float(mass.max()):.1%} at most",
        )
    shared = subject.contract.shared_width
    if subject.same_ids and shared < width - unused and float(beyond.mean() - mass.mean()) > _MUCH_UNSHARED:
        yield from_page(
            "teacher-outside-shared-ids",
            f"the shared ids are those below {shared:,} of the teacher's {width:,}",
            f"{float(beyond.mean()):.1%} of its probability is on the other ids, on average over the data's positions",
        )


def _unused(subject: PairSubject, width: int) -> Tensor:
    """Return (width,) True where the teacher's tokenizer has no token of that id."""
    meanings = token_meanings(subject.teacher.tokenizer)
    unused = torch.ones(width, dtype=torch.bool)
    for id_, meaning in enumerate(meanings[:width]):
        unused[id_] = meaning.kind == "unused"
    return unused

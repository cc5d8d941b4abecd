"""Two toy tokenizers of one text, and everything about them found the naive way: by strings.

Letters: V student ids, W teacher ids, D width of the hidden states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distillab.alignment.tables import TokenTable
from distillab.alignment.transport import TransportCounter, TransportCounts
from distillab.alignment.vocabulary import longest_prefixes, project_vocabulary
from distillab.data.collation import Collator, PaddingSide
from distillab.data.encoding import EncodedRow
from distillab.data.paired import PairedCollator, PairedRow
from distillab.data.vocabularies import Vocabularies
from distillab.models.batch import TokenBatch
from distillab.models.heads import OutputHead
from distillab.models.scoring import at_scored, scored_targets
from distillab.objectives.chunked_loss import ChunkedLoss
from distillab.objectives.term import SpanTerm, TokenTerm
from distillab.pairing.token_bytes import TokenMeaning
from distillab.teachers.aligned import align
from distillab.teachers.signals import FullLogits, TeacherSignal

EOS, MARK = "<eos>", "<mark>"
# `<mark>` of either side has no like on the other; the teacher's `<a>` is a byte token of the same text as `a`.
STUDENT = ["<pad>", EOS, *"abc 123", "ab", "12", "13", "123", " a", "32", "<odd>"]
TEACHER = ["<bos>", MARK, "<a>", EOS, *"321 cba", "bc", "abc", "b1", "c a"]
D = 5


@dataclass(frozen=True)
class Tokenizer:
    """Greedy: the longest token that the rest begins with."""

    tokens: list[str]

    def cut(self, text: str) -> list[int]:
        ids = []
        while text:
            best = max((t for t in self.tokens if t[0] != "<" and text.startswith(t)), key=len)
            ids.append(self.tokens.index(best))
            text = text[len(best) :]
        return ids

    def meanings(self) -> list[TokenMeaning]:
        return [self._meaning(token) for token in self.tokens]

    def _meaning(self, token: str) -> TokenMeaning:
        if token == "<a>":
            return TokenMeaning("byte", b"a")
        if token[0] == "<":
            roles = {EOS: {"eos"}, "<bos>": {"bos"}, "<pad>": {"pad"}}.get(token, set())
            return TokenMeaning("special", token.encode(), frozenset(roles))
        return TokenMeaning("text", token.encode())


@dataclass(frozen=True)
class Toy:
    """A pair of toy tokenizers."""

    student: Tokenizer
    teacher: Tokenizer

    def vocabularies(self, counted: Sequence[PairedRow] = ()) -> Vocabularies:
        ours, theirs = self.student.meanings(), self.teacher.meanings()
        projection = project_vocabulary(
            teacher=theirs,
            student=ours,
            pieces=lambda many: [self.student.cut(data.decode()) for data in many],
            teacher_fingerprint="t",
            student_fingerprint="s",
        )
        starts = [torch.tensor([t[0] == " " or t == EOS for t in side.tokens]) for side in (self.student, self.teacher)]
        paths = tuple(tuple(self.path(token)) for token in self.student.tokens)
        prefixes = longest_prefixes(projection, teacher=theirs, student=ours)
        counts = self.counts(counted) if counted else None
        return Vocabularies(projection, starts[0], starts[1], paths, prefixes, counts)

    def counts(self, rows: Sequence[PairedRow]) -> TransportCounts:
        sides = [TokenTable.of(side.meanings()) for side in (self.student, self.teacher)]
        counter = TransportCounter(
            *sides,
            teacher_width=len(self.teacher.tokens),
            student_width=len(self.student.tokens),
            teacher_fingerprint="t",
            student_fingerprint="s",
        )
        for row in rows:
            counter.add(
                (row.student.input_ids.astype(np.int64), row.student_spans),
                (row.teacher.input_ids.astype(np.int64), row.teacher_spans),
            )
        return counter.counts()

    def path(self, token: str) -> list[int]:
        """The teacher's spelling of a student token."""
        if token[0] == "<":
            return [self.teacher.tokens.index(token)] if token in self.teacher.tokens else []
        return self.teacher.cut(token)

    def row(self, index: int, prompt: str, answer: str, *, end: bool = True, mark: int | None = None) -> PairedRow:
        """A row; the teacher begins with its BOS, and reads `<mark>` after so many bytes of the answer."""
        ours = [(i, len(self.student.tokens[i])) for i in self.student.cut(prompt)]
        theirs = [(self.teacher.tokens.index("<bos>"), -1)] if "<bos>" in self.teacher.tokens else []
        theirs += [(i, len(self.teacher.tokens[i])) for i in self.teacher.cut(prompt)]
        border = (len(ours), len(theirs))
        ours += [(i, len(self.student.tokens[i])) for i in self.student.cut(answer)]
        parts = [answer] if mark is None else [answer[:mark], answer[mark:]]
        for number, part in enumerate(parts):
            if number:
                theirs.append((self.teacher.tokens.index(MARK), -1))
            theirs += [(i, len(self.teacher.tokens[i])) for i in self.teacher.cut(part)]
        if end:
            ours.append((self.student.tokens.index(EOS), 0))
            theirs.append((self.teacher.tokens.index(EOS), 0))
        spans = naive_spans([n for _, n in ours], [n for _, n in theirs])
        rows = []
        for ids, start in ((ours, border[0]), (theirs, border[1])):
            mask = np.arange(len(ids)) >= start
            rows.append(EncodedRow(f"k{index}", np.array([i for i, _ in ids], dtype=np.int32), mask, start))
        return PairedRow(index, rows[0], rows[1], np.array(spans[0]), np.array(spans[1]))


def naive_spans(ours: Sequence[int], theirs: Sequence[int]) -> tuple[list[int], list[int]]:
    """Spans of two rows given as bytes of each token; 0: a special token that both have, -1: that one has."""
    found: tuple[list[int], list[int]] = ([-1] * len(ours), [-1] * len(theirs))
    i = j = number = 0
    while i < len(ours) or j < len(theirs):
        if i < len(ours) and ours[i] < 0:
            i += 1
            continue
        if j < len(theirs) and theirs[j] < 0:
            j += 1
            continue
        start = (i, j)
        totals = [ours[i], theirs[j]]
        i, j = i + 1, j + 1
        while totals[0] != totals[1]:
            if totals[0] < totals[1]:
                totals[0] += ours[i]
                i += 1
            else:
                totals[1] += theirs[j]
                j += 1
        found[0][start[0] : i] = [number] * (i - start[0])
        found[1][start[1] : j] = [number] * (j - start[1])
        number += 1
    return found


TOY = Toy(Tokenizer(STUDENT), Tokenizer(TEACHER))
# 2:1, 1:2, 1:3, 2:2, 1:1, longer on the teacher's side; a token of the teacher alone; an answer that was cut off
ROWS = [
    TOY.row(0, "a ", "abc 12 ab1"),
    TOY.row(1, "c", " a123 b2c a3", mark=6),
    TOY.row(2, "bb", "13 abbc", end=False),
    TOY.row(3, "1", "abb12"),
]


def scored_spans(row: PairedRow) -> Iterator[tuple[list[int], list[int]]]:
    """The places of the student's and of the teacher's tokens of each span whose tokens are all scored."""
    for span in range(int(row.student_spans.max()) + 1):
        mine = [i for i, c in enumerate(row.student_spans) if c == span]
        its = [j for j, c in enumerate(row.teacher_spans) if c == span]
        if row.student.answer_mask[mine].all() and row.teacher.answer_mask[its].all():
            yield mine, its


def text_losses(row: PairedRow, logits_LV: Tensor, without: set[int]) -> list[Tensor]:
    """The negative log-likelihood of each scored token but those at some places."""
    return [
        -logits_LV[place - 1].softmax(-1)[int(row.student.input_ids[place])].log()
        for place in range(1, len(row.student))
        if row.student.answer_mask[place] and place not in without
    ]


def collate(rows: Sequence[PairedRow], ours: PaddingSide = "right", theirs: PaddingSide = "right") -> TokenBatch:
    return PairedCollator(Collator(0, ours), Collator(0, theirs))(rows)


def numbers_for(rows: Sequence[PairedRow], *, seed: int, teacher: bool, width: int) -> dict[int, Tensor]:
    """Row index -> random numbers of every position, (L, width)."""
    found = {}
    for row in rows:
        length = len(row.teacher if teacher else row.student)
        generator = torch.Generator().manual_seed(1000 * seed + row.index)
        found[row.index] = torch.randn(length, width, generator=generator)
    return found


def laid_out(batch: TokenBatch, by_row: dict[int, Tensor]) -> Tensor:
    """(B, L, width) of numbers by row; differentiable; NaN at padding."""
    width = next(iter(by_row.values())).shape[1]
    lines = []
    for b in range(batch["rows"].shape[0]):
        places = [
            by_row[int(r)][int(p)] if r >= 0 else torch.full((width,), torch.nan)
            for r, p in zip(batch["rows"][b], batch["position_ids"][b], strict=True)
        ]
        lines.append(torch.stack(places))
    return torch.stack(lines)


@dataclass
class Result:
    """A term's sum, its count, and the gradients of hidden states (by row) and head."""

    total: float
    count: int
    hidden: dict[int, Tensor]
    head: Tensor


def ours(
    term: TokenTerm, batches: Sequence[TokenBatch], hidden: dict[int, Tensor], head: Tensor, teacher: dict[int, Tensor]
) -> Result:
    """Through the chunked pass."""
    leaves = {row: states.clone().requires_grad_() for row, states in hidden.items()}
    weight = head.clone().requires_grad_()
    total, count = torch.zeros(()), 0
    for batch in batches:
        scores = FullLogits(at_scored(laid_out(batch["teacher"], teacher), batch["teacher"]))
        reduce_spans: dict[str, Callable[[Tensor], Tensor]] = {}
        if isinstance(term, SpanTerm):
            reduce_spans["t"] = lambda observed, b=batch, s=scores: term.reduce_spans(
                observed, b, TeacherSignal(scores=s)
            )  # type: ignore[misc]
        assert term.score_request is not None
        work = ChunkedLoss(
            head=OutputHead(weight),
            targets_N=scored_targets(batch),
            teacher=align(
                scores,
                batch,
                width=term.score_request.width,
                ordinal=term.ordinal,
                continues=term.continues,
                device=torch.device("cpu"),
            ),
            terms={"t": term},
            factors={"t": 0.5},
            reduce_spans=reduce_spans,
        )
        (2.0 * work.loss(at_scored(laid_out(batch, leaves), batch))).backward()
        total = total + work.values["t"].sum()
        count += term.count(batch)
    assert weight.grad is not None
    return Result(float(total), count, {row: leaf.grad for row, leaf in leaves.items()}, weight.grad)  # type: ignore[misc]


Naive = Callable[[Sequence[PairedRow], dict[int, Tensor], dict[int, Tensor]], tuple[Tensor, int]]


def reference(
    naive: Naive, rows: Sequence[PairedRow], hidden: dict[int, Tensor], head: Tensor, teacher: dict[int, Tensor]
) -> Result:
    """In float64, from whole logits, by a naive function of (rows, student's logits, teacher's logits) by row."""
    leaves = {row: states.double().requires_grad_() for row, states in hidden.items()}
    weight = head.double().requires_grad_()
    logits = {row: leaf @ weight.T for row, leaf in leaves.items()}
    total, count = naive(rows, logits, {row: t.double() for row, t in teacher.items()})
    total.backward()
    assert weight.grad is not None
    return Result(float(total.detach()), count, {row: leaf.grad for row, leaf in leaves.items()}, weight.grad)  # type: ignore[misc]


def assert_same(found: Result, expected: Result, *, tolerance: float = 1e-5, **context: Any) -> None:
    size = max(float(expected.head.abs().max()), 1e-6)
    assert found.count == expected.count, context
    assert abs(found.total - expected.total) <= tolerance * max(1.0, abs(expected.total)), (found, expected, context)
    torch.testing.assert_close(found.head.double(), expected.head.double(), rtol=10 * tolerance, atol=tolerance * size)
    for row, gradient in expected.hidden.items():
        torch.testing.assert_close(
            found.hidden[row].double(), gradient.double(), rtol=10 * tolerance, atol=tolerance * size
        )

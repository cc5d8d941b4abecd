"""Spans of two tokenisations of one text, on real tokenizers."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillab.alignment.plan import LeftOut, SpanPlan, answer_spans
from distillab.alignment.spans import SpanAligner
from distillab.alignment.tables import match_special_tokens
from distillab.alignment.walk import walk_row
from distillab.errors import ShapeError
from distillab.pairing.probes import PROBES
from tests.alignment.conftest import Side
from tests.alignment.naive import as_list, naive_spans

Real = Callable[[str], Side]

# Pairs whose tokenizers keep every byte: one prefix space is all that may differ.
EXACT = [
    ("tinyllama-1.1b", "mistral-7b-v0.1"),
    ("tinyllama-1.1b", "gpt2"),
    ("gpt2", "mistral-7b-v0.1"),
    ("qwen-like", "gpt2"),
    ("mistral-7b-v0.1", "qwen-like"),
]
PIECES = [
    "The quick",
    " ",
    "  ",
    "\n",
    "\t",
    "def f(x):\n    return x",
    "狐狸",
    "日本",
    "😀",
    "👩\u200d👩\u200d👧",
    "é",
    "e\u0301",
]
PIECES += ["\x00", "\x1b", "12345", "3.14", "\u00a0", "ﬁ", "don't", "====", "\r\n", "<0x0A>", "##s", "Ġ", "Ċ", " fox"]
PLAIN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁<"), max_size=60)
TEXTS = st.one_of(PLAIN, st.lists(st.sampled_from(PIECES), max_size=12).map("".join))


def aligner(student: Side, teacher: Side, differing: str = "refuse") -> SpanAligner:
    return SpanAligner(student=student.table, teacher=teacher.table, differing=differing)


def walked(student: Side, teacher: Side, ours: np.ndarray, theirs: np.ndarray) -> SpanPlan:
    plan, difference = walk_row(
        ours.astype(np.int64),
        theirs.astype(np.int64),
        student.table,
        teacher.table,
        match_special_tokens(student.table, teacher.table),
        student_cut=False,
        teacher_cut=False,
    )
    assert difference is None
    return plan


def same(one: SpanPlan, other: SpanPlan) -> bool:
    return (
        as_list(one) == as_list(other)
        and one.n_bytes.tolist() == other.n_bytes.tolist()
        and (one.student_left_out, one.teacher_left_out) == (other.student_left_out, other.teacher_left_out)
    )


def require_sound(plan: SpanPlan, student: Side, teacher: Side, ours: np.ndarray, theirs: np.ndarray) -> None:
    """Whole, in order, disjoint, minimal, and the same bytes, but for a BOS and a prefix space in front."""
    for ranges, ids, side, left in (
        (plan.student, ours, student, plan.student_left_out),
        (plan.teacher, theirs, teacher, plan.teacher_left_out),
    ):
        lead = len(ids) - int((ranges[:, 1] - ranges[:, 0]).sum())
        assert left == LeftOut(one_sided=lead)
        assert all(side.meanings[i].kind == "special" or side.meanings[i].data == b" " for i in ids[:lead])
        assert (ranges[:, 0] < ranges[:, 1]).all()
        if len(ranges):
            assert ranges[0, 0] == lead and ranges[-1, 1] == len(ids)
            assert (ranges[1:, 0] == ranges[:-1, 1]).all()
    for number, ((a, b), (c, d)) in enumerate(as_list(plan)):
        pieces = [student.meanings[i].data for i in ours[a:b]], [teacher.meanings[i].data for i in theirs[c:d]]
        words = [b"".join(side) for side in pieces]
        if plan.n_bytes[number] == 0:
            assert b - a == d - c == 1
            continue
        assert plan.n_bytes[number] == min(map(len, words))
        if words[0] != words[1]:  # the first of the text
            assert sum(plan.n_bytes[:number]) == 0
            assert words[0] == b" " + words[1] or words[1] == b" " + words[0]
            side = 0 if len(words[0]) > len(words[1]) else 1
            pieces[side][0] = pieces[side][0][1:]
        inner = [set(np.cumsum([len(piece) for piece in side])[:-1].tolist()) - {0} for side in pieces]
        assert not inner[0] & inner[1], "the span can be cut"


@pytest.mark.parametrize(("student", "teacher"), EXACT)
def test_spans_are_whole_ordered_disjoint_minimal_and_the_naive(real: Real, student: str, teacher: str) -> None:
    a, b = real(student), real(teacher)
    align = aligner(a, b)

    @settings(max_examples=100, deadline=None)
    @given(TEXTS, st.booleans())
    def check(text: str, special: bool) -> None:
        ours, theirs = a.ids(text, special=special), b.ids(text, special=special)
        plan = align.row(ours, theirs)
        require_sound(plan, a, b, ours, theirs)
        if text:
            assert as_list(plan) == naive_spans(ours, theirs, a.meanings, b.meanings)
        assert same(plan, walked(a, b, ours, theirs))
        assert same(plan.swapped(), aligner(b, a).row(theirs, ours))

    check()


@pytest.mark.parametrize("name", ["tinyllama-1.1b", "mistral-7b-v0.1", "gpt2", "tok512", "tok105", "qwen-like"])
def test_a_tokenizer_with_itself_is_the_identity(real: Real, name: str) -> None:
    side = real(name)
    for text in PROBES:
        ids = side.ids(text, special=True)
        plan = aligner(side, side).row(ids, ids)
        known = [n for n, i in enumerate(ids) if i != side.tokenizer.unk_token_id or name == "gpt2"]
        single = [((n, n + 1), (n, n + 1)) for n in range(len(ids))]
        if len(known) == len(ids):
            assert as_list(plan) == single
        else:  # unk hides bytes: what stands between two of them is left out
            assert as_list(plan) == single[: len(plan)] or set(as_list(plan)) <= set(single)
            assert plan.student_left_out.differing == len(ids) - len(plan)


def test_rows_together_are_the_rows_alone(real: Real) -> None:
    student, teacher = real("tinyllama-1.1b"), real("gpt2")
    texts = ["", *PROBES, "", " ", "a", "<s>", "", "The end.</s>"]
    ours, theirs = student.all_ids(texts), teacher.all_ids(texts)
    align = aligner(student, teacher, "leave_out")
    together = align.rows(ours, theirs)
    assert len(together) == len(texts)
    for plan, a, b in zip(together, ours, theirs, strict=True):
        assert same(plan, align.row(a, b))
    again = pickle.loads(pickle.dumps(align)).rows(ours, theirs)  # noqa: S301 (our own bytes: worker processes do so)
    assert all(map(same, together, again))


def test_rows_together_are_the_rows_alone_whatever_stands_at_their_ends(real: Real) -> None:
    """Behind a row's last marker there is a stretch without bytes, at the very place where the next row begins."""
    student, teacher = real("tinyllama-1.1b"), real("mistral-7b-v0.1")
    align = aligner(student, teacher, "leave_out")

    def ids(side: Side, text: str, begins: bool, ends: bool) -> np.ndarray:
        bos, eos = side.tokenizer.bos_token_id, side.tokenizer.eos_token_id
        return np.array([*[bos] * begins, *side.ids(text, special=False), *[eos] * ends], dtype=np.int64)

    # the two texts, which a normaliser may have made different; BOS and EOS of the student; those of the teacher
    texts = st.sampled_from([("", ""), ("a", "a"), ("The end.", "The end."), ("狐 x", "狐 x"), ("A", "a")])
    row = st.tuples(texts, *[st.booleans()] * 4)

    @settings(max_examples=150, deadline=None)
    @given(st.lists(row, min_size=1, max_size=5))
    def check(rows: list[tuple[tuple[str, str], bool, bool, bool, bool]]) -> None:
        ours = [ids(student, both[0], bos, eos) for both, bos, eos, _, _ in rows]
        theirs = [ids(teacher, both[1], bos, eos) for both, _, _, bos, eos in rows]
        for plan, one, other in zip(align.rows(ours, theirs), ours, theirs, strict=True):
            assert same(plan, align.row(one, other))

    check()


def test_what_it_looks_like(real: Real) -> None:
    student, teacher = real("tinyllama-1.1b"), real("gpt2")
    ours, theirs = student.ids("xylophone 狐", special=True), teacher.ids("xylophone 狐", special=True)
    shown = [
        ([student.meanings[i].data for i in ours[a:b]], [teacher.meanings[i].data for i in theirs[c:d]])
        for (a, b), (c, d) in as_list(aligner(student, teacher).row(ours, theirs))
    ]
    assert shown == [
        ([b" x"], [b"x"]),
        ([b"y", b"lo", b"phone"], [b"yl", b"ophone"]),
        ([b" ", b"\xe7"], [b" \xe7"]),
        ([b"\x8b"], [b"\x8b"]),
        ([b"\x90"], [b"\x90"]),
    ]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_answer_spans_count_what_straddles(data: st.DataObject) -> None:
    cuts = st.sets(st.integers(1, 11), max_size=6)
    borders = [sorted({0, 12} | data.draw(cuts)) for _ in range(2)]
    size = min(map(len, borders))
    ranges = [np.stack([b[: size - 1], b[1:size]], axis=1).astype(np.int32) for b in map(np.array, borders)]
    masks = [np.array(data.draw(st.lists(st.booleans(), min_size=12, max_size=12))) for _ in range(2)]
    plan = SpanPlan(ranges[0], ranges[1], np.ones(size - 1, dtype=np.int32))
    found = answer_spans(plan, student_mask=masks[0], teacher_mask=masks[1])
    whole, straddling = [], 0
    for (a, b), (c, d) in as_list(plan):
        flags = [*masks[0][a:b], *masks[1][c:d]]
        if all(flags):
            whole.append(((a, b), (c, d)))
        elif any(flags):
            straddling += 1
    assert as_list(found.plan) == whole
    assert found.straddling == straddling


def test_a_mask_of_another_row_is_refused() -> None:
    ranges = np.array([[0, 2], [2, 5]], dtype=np.int32)
    plan = SpanPlan(ranges, ranges, np.array([2, 3], dtype=np.int32))
    with pytest.raises(ShapeError, match="one entry a token") as caught:
        answer_spans(plan, student_mask=np.ones(5, dtype=bool), teacher_mask=np.ones(4, dtype=bool))
    assert "teacher_mask" in caught.value.facts[0]

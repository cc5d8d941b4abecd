"""Spans by two strings that grow: slow, and without the arrays of the code under test."""

from __future__ import annotations

from collections.abc import Sequence

from distillab.pairing.token_bytes import TokenMeaning

Spans = list[tuple[tuple[int, int], tuple[int, int]]]


def naive_spans(
    student: Sequence[int], teacher: Sequence[int], ours: Sequence[TokenMeaning], theirs: Sequence[TokenMeaning]
) -> Spans:
    """Spans of rows of text tokens with at most a BOS in front; one side may have a space more in front."""
    a = 1 if len(student) and "bos" in ours[student[0]].roles else 0
    b = 1 if len(teacher) and "bos" in theirs[teacher[0]].roles else 0
    spans: Spans = [((0, 1), (0, 1))] if a and b else []
    left = [ours[i].data for i in student]
    right = [theirs[i].data for i in teacher]
    whole = b"".join(left[a:]), b"".join(right[b:])
    extra = len(whole[0]) - len(whole[1])
    assert whole[0].removeprefix(b" " * (extra == 1)) == whole[1].removeprefix(b" " * (extra == -1)), "two texts"
    if extra == 1:
        left[a] = left[a][1:]
    if extra == -1:
        right[b] = right[b][1:]
    i, j, x, y = a, b, b"", b""
    while i < len(left) or j < len(right):
        if (len(x) <= len(y) and i < len(left)) or j == len(right):
            x, i = x + left[i], i + 1
        else:
            y, j = y + right[j], j + 1
        if len(x) == len(y) > 0:
            assert x == y
            spans.append(((a, i), (b, j)))
            a, b, x, y = i, j, b"", b""
    assert (a, b) == (len(left), len(right))
    return spans


def as_list(plan) -> Spans:
    return [((a, b), (c, d)) for (a, b), (c, d) in zip(plan.student.tolist(), plan.teacher.tolist(), strict=True)]

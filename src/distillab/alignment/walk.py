"""Align any one row, run by run. `batched.py` does the usual rows faster, and gives the same plans.

The tokens of student and teacher are laid on one line of coordinates. Bytes that agree take one place each, a pair of
special tokens takes one. What only one of the two rows has takes places on the line too, a *gap*. Every token end is a
boundary at its coordinate. If one row has nothing in a gap, its boundary in front of the gap is repeated behind it. A
span then lies between two neighbouring boundaries that both rows have, and is left out if a gap is in it.

Rules for what only one of the two rows has:
* A row may begin with a BOS that the other row lacks.
* A text, or what follows a special token, may begin with one space more than in the other row (SentencePiece's
  prefix). It takes no place. If it is a token by itself, that token belongs to the span that follows.
* A special token that the other row lacks is left out. If the bytes do not agree then, its content is compared with the
  other row's text.
* If characters differ, or a token is `unk`, only these are left out: what agrees before and after them is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from distillab.alignment.items import Item, TokenBoundaries, split_items
from distillab.alignment.plan import SpanPlan
from distillab.alignment.regions import Difference, Walk
from distillab.alignment.tables import SPECIAL, TokenTable


def walk_row(
    student_ids: NDArray[np.int64],
    teacher_ids: NDArray[np.int64],
    student: TokenTable,
    teacher: TokenTable,
    pairs: NDArray[np.bool_],
    *,
    student_cut: bool,
    teacher_cut: bool,
) -> tuple[SpanPlan, Difference | None]:
    """Return the plan of one row, and where its bytes differ (None: nowhere).

    Args:
        student_ids: (L,) ids of the row. teacher_ids: (M,) the same text.
        pairs: from `match_special_tokens(student, teacher)`.
        student_cut: the student's row was truncated, so its text is a prefix of the teacher's. teacher_cut: the same
            of the teacher's row.
    """
    student_items, teacher_items = split_items(student_ids, student), split_items(teacher_ids, teacher)
    anchors = _anchors(student_items, teacher_items, student, teacher, pairs, cut=student_cut or teacher_cut)
    n_special = sum(item.kind == SPECIAL for item in (*student_items, *teacher_items))
    tries = []
    for spells in (False, True):
        walk = Walk(TokenBoundaries(student_items, student_cut), TokenBoundaries(teacher_items, teacher_cut), spells)
        walk.run(anchors)
        tries.append((walk.plan(), walk.difference))
        if walk.difference is None or n_special == 2 * len(anchors):
            return tries[-1]
    return min(tries, key=lambda found: (found[1] is not None, -sum(found[0].n_bytes.tolist())))


def _anchors(
    student_items: Sequence[Item],
    teacher_items: Sequence[Item],
    student: TokenTable,
    teacher: TokenTable,
    pairs: NDArray[np.bool_],
    *,
    cut: bool,
) -> list[tuple[int, int]]:
    """Return the special tokens that match: as many as agree from the front, then as many from the end."""
    both_items = (student_items, teacher_items)
    places = [
        [place for place, item in enumerate(items) if item.kind == SPECIAL and has_pair[item.special]]
        for items, has_pair in zip(both_items, (np.any(pairs, axis=1), np.any(pairs, axis=0)), strict=True)
    ]

    def agree(a: int, b: int) -> bool:
        return bool(pairs[student_items[a].special, teacher_items[b].special])

    begins = [
        bool(found) and items[0].kind == SPECIAL and "bos" in table.special_tokens[items[0].special].roles
        for found, items, table in zip(places, both_items, (student, teacher), strict=True)
    ]
    both = bool(places[0] and places[1]) and places[0][0] == places[1][0] == 0 and agree(0, 0)
    if not both:
        places = [[p for p in found if p > 0] if begin else found for found, begin in zip(places, begins, strict=True)]
    matched = list(takewhile(lambda pair: agree(*pair), zip(*places, strict=False)))
    if cut:
        return matched
    rest = [found[len(matched) :] for found in places]
    behind = list(takewhile(lambda pair: agree(*pair), zip(reversed(rest[0]), reversed(rest[1]), strict=False)))
    return [*matched, *reversed(behind)]

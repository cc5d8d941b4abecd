"""Tokens of two vocabularies in groups, such that a text falls into the same group on both sides.

Where one side has `1`, `2`, … and the other `12` as well, the first side's `1` and the other's `1`, `12`, `13`, … say
the same thing: that the text goes on with a 1. One by one they cannot be compared, together they can.

Letters: V student ids, W teacher ids, G groups.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SpelledTokens:
    """Student tokens that the teacher spells with several, in an order in which those that go on alike stand together.

    Attributes:
        rank: (V,) int64, the place of each; -1 for all other tokens.
        start, end: (V,) int64, ranks of the tokens whose spelling begins with this one's (itself, and longer ones); 0
            for all other tokens.
        separable: (V,) bool, of these: the group has further student tokens than those.
    """

    rank: Tensor
    start: Tensor
    end: Tensor
    separable: Tensor


@dataclass(frozen=True, eq=False)
class TokenGroups:
    """Groups that both vocabularies have tokens of.

    Attributes:
        student: (V,) int64, the group of each student id; -1 where the teacher has none like it.
        teacher: (W,) int64, the same of the teacher.
        spelled: None where no student token is looked at apart from its group.
    """

    student: Tensor
    teacher: Tensor
    spelled: SpelledTokens | None = None


def common_groups(first_ids: Tensor, same: Tensor, *, student_width: int) -> TokenGroups:
    """Each token that both have by itself; all others in none.

    Several teacher ids of the same bytes (`a` and `<0x61>`) are one token here.

    Args:
        first_ids: (W,) as for `groups_by_beginning`.
        same: (W,) bool, True where that is the same token.
    """
    kept, numbers = first_ids[same].unique(return_inverse=True)
    teacher, student = (torch.full((width,), -1, dtype=torch.int64) for width in (same.shape[0], student_width))
    teacher[same] = numbers
    student[kept] = torch.arange(kept.shape[0])
    return TokenGroups(student, teacher)


def groups_by_beginning(first_ids: Tensor, paths: Sequence[Sequence[int]]) -> TokenGroups:
    """The finest groups in which every token stands with the one by which the other side would begin its text.

    Args:
        first_ids: (W,) student id by which the student begins the text of each teacher id; -1 for none.
        paths: (V) teacher ids by which the teacher spells each student id; empty for none.
    """
    to_student = first_ids.numpy()
    width, size = len(to_student), len(paths)
    to_teacher = np.array([path[0] if path else -1 for path in paths], dtype=np.int64)
    theirs, ours = np.flatnonzero(to_student >= 0), np.flatnonzero(to_teacher >= 0)
    # nodes: the teacher's ids, then the student's
    ends = (np.concatenate([theirs, to_teacher[ours]]), np.concatenate([to_student[theirs], ours]) + width)
    links = coo_array((np.ones(len(ends[0]), dtype=np.int8), ends), shape=(width + size,) * 2)
    _, labels = connected_components(links, directed=False)
    # numbered as the student's ids are: what is looked up in this order is found faster
    _, first = np.unique(labels[width:], return_index=True)
    in_order = labels[width:][np.sort(first)]
    both = in_order[np.isin(in_order, labels[:width])]
    number = np.full(width + size, -1, dtype=np.int64)
    number[both] = np.arange(len(both))
    groups = number[labels]
    return TokenGroups(
        torch.from_numpy(groups[width:].copy()),
        torch.from_numpy(groups[:width].copy()),
        _spelled(paths, groups[width:]),
    )


def _spelled(paths: Sequence[Sequence[int]], groups: Ids) -> SpelledTokens:
    order = sorted((id_ for id_, path in enumerate(paths) if len(path) > 1), key=lambda id_: tuple(paths[id_]))
    ordered = [tuple(paths[id_]) for id_ in order]
    rank, start, end = (np.zeros(len(paths), dtype=np.int64) for _ in range(3))
    rank[:] = -1
    for place, (id_, path) in enumerate(zip(order, ordered, strict=True)):
        rank[id_] = place
        start[id_] = bisect_left(ordered, path)
        end[id_] = bisect_left(ordered, (*path[:-1], path[-1] + 1))
    sizes = np.bincount(groups[groups >= 0], minlength=1)
    separable = (rank >= 0) & (groups >= 0) & (sizes[groups.clip(min=0)] > end - start)
    return SpelledTokens(*(torch.from_numpy(array) for array in (rank, start, end, separable)))

"""Group the tokens of two vocabularies so that any text falls into the same group for both.

If one vocabulary has `1`, `2`, … and the other `12` as well, the first one's `1` and the other's `1`, `12`, `13`, …
mean the same: the text continues with a 1. One by one they cannot be compared, as groups they can.

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
    """Student tokens that the teacher spells with several tokens, sorted so that common prefixes are adjacent.

    Attributes:
        rank: (V,) int64, position of each in the order; -1 for all other tokens.
        start, end: (V,) int64, ranks of the tokens whose spelling has this one as a prefix (itself included); 0 for all
            other tokens.
        separable: (V,) bool, whether the group has student tokens beyond those.
    """

    rank: Tensor
    start: Tensor
    end: Tensor
    separable: Tensor


@dataclass(frozen=True, eq=False)
class TokenGroups:
    """Groups that both vocabularies have tokens of.

    Attributes:
        student: (V,) int64, the group of each student id; -1: none.
        teacher: (W,) int64, the same for the teacher.
        spelled: None if no student token is separated from its group.
    """

    student: Tensor
    teacher: Tensor
    spelled: SpelledTokens | None = None


def common_groups(first_ids: Tensor, same: Tensor, *, student_width: int) -> TokenGroups:
    """Return one group per common token; all other tokens are in no group.

    Several teacher ids of the same bytes (`a` and `<0x61>`) count as one token.

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
    """Return the finest groups in which each token is with the first token of its text in the other vocabulary.

    Args:
        first_ids: (W,) first student id of the text of each teacher id; -1: none.
        paths: (V) teacher ids that spell each student id; empty: none.
    """
    to_student = first_ids.numpy()
    width, size = len(to_student), len(paths)
    to_teacher = np.array([path[0] if path else -1 for path in paths], dtype=np.int64)
    teacher_ids, student_ids = np.flatnonzero(to_student >= 0), np.flatnonzero(to_teacher >= 0)
    # nodes: the teacher's ids, then the student's
    ends = (
        np.concatenate([teacher_ids, to_teacher[student_ids]]),
        np.concatenate([to_student[teacher_ids], student_ids]) + width,
    )
    links = coo_array((np.ones(len(ends[0]), dtype=np.int8), ends), shape=(width + size,) * 2)
    _, labels = connected_components(links, directed=False)
    # numbered in the order of the student's ids: lookups in this order are faster
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

"""Groups of tokens by hand, and of real tokenizers by their bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distillab.data.reading import load_reader
from distillab.data.token_groups import common_groups, groups_by_beginning
from distillab.data.vocabularies import vocabularies
from distillab.pairing.token_bytes import token_meanings


def _together(student: torch.Tensor, teacher: torch.Tensor) -> set[tuple[frozenset[int], frozenset[int]]]:
    numbers = range(int(student.max()) + 1)
    return {
        (
            frozenset((student == n).nonzero()[:, 0].tolist()),
            frozenset((teacher == n).nonzero()[:, 0].tolist()),
        )
        for n in numbers
    }


def test_tokens_stand_with_the_one_that_the_other_side_begins_with() -> None:
    # student: 0 "1", 1 "12", 2 "123", 3 "a", 4 without a counterpart, 5 "11";
    # teacher: 0 "2", 1 "1", 2 "ab", 3 none, 4 "a"
    groups = groups_by_beginning(torch.tensor([-1, 0, 3, -1, 3]), [(1,), (1, 0), (1, 0, 5), (4,), (), (1, 1)])
    assert _together(groups.student, groups.teacher) == {
        (frozenset({0, 1, 2, 5}), frozenset({1})),
        (frozenset({3}), frozenset({2, 4})),
    }
    assert groups.student[4] == -1 and groups.teacher[[0, 3]].tolist() == [-1, -1]
    spelled = groups.spelled
    assert spelled is not None
    assert spelled.rank.tolist() == [-1, 0, 1, -1, -1, 2]
    assert spelled.start[[1, 2, 5]].tolist() == [0, 1, 2] and spelled.end[[1, 2, 5]].tolist() == [2, 2, 3]
    assert spelled.separable.tolist() == [False, True, True, False, False, True]


def test_a_token_that_is_all_of_its_group_is_not_taken_out_of_it() -> None:
    """The teacher spells `é` as two bytes, and the student has nothing else that begins with the first of them."""
    groups = groups_by_beginning(torch.tensor([-1, -1]), [(0, 1)])
    assert _together(groups.student, groups.teacher) == {(frozenset({0}), frozenset({0}))}
    assert groups.spelled is not None and not bool(groups.spelled.separable.any())


def test_several_teacher_ids_of_the_same_bytes_are_one_token() -> None:
    """Else the student's `a` would be held against the byte token `<0x61>`, which no text has."""
    groups = common_groups(torch.tensor([1, 0, 1, -1]), torch.tensor([True, True, True, False]), student_width=3)
    assert _together(groups.student, groups.teacher) == {
        (frozenset({1}), frozenset({0, 2})),
        (frozenset({0}), frozenset({1})),
    }
    assert groups.student[2] == -1 and groups.teacher[3] == -1


@pytest.mark.parametrize("pair", [("tok105", "tok512"), ("tok512", "tok105")])
def test_real_tokenizers_spell_each_others_tokens(materials: Path, pair: tuple[str, str]) -> None:
    student, teacher = (
        load_reader(str(materials / "tokenizers" / name), revision=None, template="auto", kind="pair", max_tokens=64)
        for name in pair
    )
    ours, theirs = token_meanings(student.tokenizer), token_meanings(teacher.tokenizer)
    both = vocabularies(student, teacher, student_width=len(ours), teacher_width=len(theirs))
    assert both.student_paths is not None and len(both.student_paths) == len(ours)
    longer = 0
    for meaning, path in zip(ours, both.student_paths, strict=True):
        if meaning.kind in ("text", "byte") and path:
            assert b"".join(theirs[id_].data for id_ in path) == meaning.data
            longer += len(path) > 1
    groups = both.by_beginning
    assert groups is not None
    if pair[0] == "tok512":
        assert longer > 100
    # only special tokens, and bytes of characters that one side does not have, are in no group
    for side, numbers in ((ours, groups.student), (theirs, groups.teacher)):
        assert all(meaning.kind != "text" for meaning, n in zip(side, numbers.tolist(), strict=True) if n < 0)
    # all tokens of a group begin with the same byte
    first: dict[int, set[bytes]] = {}
    for side, numbers in ((ours, groups.student), (theirs, groups.teacher)):
        for meaning, n in zip(side, numbers.tolist(), strict=True):
            if n >= 0 and meaning.kind in ("text", "byte"):
                first.setdefault(n, set()).add(meaning.data[:1])
    assert all(len(starts) == 1 for starts in first.values())

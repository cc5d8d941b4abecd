"""Two readers -> what is known of both vocabularies. V student ids, W teacher ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from distillab.alignment.projection import HOWS, VocabularyProjection
from distillab.alignment.vocabulary import project_vocabulary
from distillab.data.pieces import canonical_pieces
from distillab.data.reading import Reader
from distillab.data.token_groups import TokenGroups, common_groups, groups_by_beginning
from distillab.pairing.contract import fingerprint
from distillab.pairing.token_bytes import TokenMeaning, token_meanings


@dataclass(frozen=True, eq=False)
class Vocabularies:
    """Both vocabularies, as far as terms look at them.

    Attributes:
        projection: from the teacher's to the student's; every teacher id has one student id, or none.
        student_starts: (V,) bool, whether a token begins a word, or ends the text.
        teacher_starts: (W,) bool, the same.
        student_paths: (V) the teacher's tokens by which it spells each student token, empty where it cannot; None
            where nobody asked.
    """

    projection: VocabularyProjection
    student_starts: Tensor
    teacher_starts: Tensor
    student_paths: tuple[tuple[int, ...], ...] | None = None

    @property
    def student_width(self) -> int:
        """V."""
        return self.projection.student_width

    @property
    def teacher_width(self) -> int:
        """W."""
        return self.projection.teacher_width

    @cached_property
    def first_ids(self) -> Tensor:
        """(W,) int64, the student token by which a student begins a text that begins with the teacher's; -1: none."""
        mapped = np.diff(self.projection.row_ends) > 0
        first = np.full(self.teacher_width, -1, dtype=np.int64)
        first[mapped] = self.projection.student_ids[self.projection.row_ends[:-1][mapped]]
        return torch.from_numpy(first)

    @cached_property
    def common(self) -> tuple[Tensor, Tensor]:
        """(C,) teacher ids and (C,) student ids of the tokens that both have, no id twice.

        Where several teacher ids mean one student id (`a` and `<0x61>`), the first of them is taken.
        """
        theirs = np.flatnonzero(self._same.numpy())
        ours = self.first_ids.numpy()[theirs]
        _, first = np.unique(ours, return_index=True)
        first.sort()
        return torch.from_numpy(theirs[first]), torch.from_numpy(ours[first])

    @cached_property
    def _same(self) -> Tensor:
        """(W,) bool, whether the student has the same token."""
        return torch.from_numpy(np.isin(self.projection.how, [HOWS.index("exact"), HOWS.index("role")]))

    @cached_property
    def by_common(self) -> TokenGroups:
        """Each token that both have by itself, the others in no group."""
        return common_groups(self.first_ids, self._same, student_width=self.student_width)

    @cached_property
    def by_beginning(self) -> TokenGroups | None:
        """Tokens that begin alike; None where the paths are not known."""
        return None if self.student_paths is None else groups_by_beginning(self.first_ids, self.student_paths)


def vocabularies(student: Reader, teacher: Reader, *, student_width: int, teacher_width: int) -> Vocabularies:
    """What terms on two tokenisations need to know of a pair.

    Args:
        student_width, teacher_width: ids of either tokenizer that the two models have logits for.
    """
    ours, theirs = token_meanings(student.tokenizer), token_meanings(teacher.tokenizer)
    projection = project_vocabulary(
        teacher=theirs,
        student=ours,
        pieces=canonical_pieces(student.tokenizer, ours),
        teacher_fingerprint=fingerprint(teacher.loaded, theirs),
        student_fingerprint=fingerprint(student.loaded, ours),
        teacher_width=teacher_width,
        student_width=student_width,
    )
    return Vocabularies(
        projection,
        _starts(ours, student_width),
        _starts(theirs, teacher_width),
        _paths(student, teacher, ours, theirs, student_width=student_width, teacher_width=teacher_width),
    )


def _paths(
    student: Reader,
    teacher: Reader,
    ours: Sequence[TokenMeaning],
    theirs: Sequence[TokenMeaning],
    *,
    student_width: int,
    teacher_width: int,
) -> tuple[tuple[int, ...], ...]:
    """(V) the teacher's tokens that spell each student token: one where it has the same, else its own pieces."""
    cut = canonical_pieces(teacher.tokenizer, theirs)
    known: dict[bytes, list[int]] = {}

    def remembered(many: Sequence[bytes]) -> list[list[int]]:
        found = cut(many)
        known.update(zip(many, found, strict=True))
        return found

    back = project_vocabulary(
        teacher=ours,
        student=theirs,
        pieces=remembered,
        teacher_fingerprint=fingerprint(student.loaded, ours),
        student_fingerprint=fingerprint(teacher.loaded, theirs),
        teacher_width=student_width,
        student_width=teacher_width,
    )
    paths: list[tuple[int, ...]] = []
    for number in range(student_width):
        first = tuple(mapped.student_id for mapped in back.describe(number))
        pieces = tuple(known.get(ours[number].data, ())) if back.how[number] == HOWS.index("pieces") else ()
        # of bytes that end inside of a character the first piece alone is known
        paths.append(pieces if pieces[:1] == first else first)
    return tuple(paths)


def _starts(meanings: list[TokenMeaning], width: int) -> Tensor:
    """(width,) bool: the token cannot go on a word: it begins with a byte that no word has inside, or ends the text.

    Letters and digits of ASCII, and every byte of a longer character, may go on a word; so may an apostrophe.
    """
    starts = torch.zeros(width, dtype=torch.bool)
    for number, meaning in enumerate(meanings):
        if meaning.kind == "special":
            starts[number] = "eos" in meaning.roles
        elif meaning.data:
            first = meaning.data[0]
            starts[number] = first < 128 and not (chr(first).isalnum() or first == ord("'"))
    return starts

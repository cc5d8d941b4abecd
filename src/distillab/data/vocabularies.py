"""Map the teacher's vocabulary to the student's, for cross-tokenizer terms. V student ids, W teacher ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distillab.alignment.projection import HOWS, VocabularyProjection
from distillab.alignment.transport import PRIOR, TransportCounts
from distillab.alignment.vocabulary import longest_prefixes, project_vocabulary
from distillab.data.pieces import canonical_pieces
from distillab.data.reading import Reader
from distillab.data.token_groups import TokenGroups, common_groups, groups_by_beginning
from distillab.errors import TeacherError
from distillab.pairing.contract import fingerprint
from distillab.pairing.token_bytes import TokenMeaning


@dataclass(frozen=True, eq=False)
class Vocabularies:
    """Mapping between the two vocabularies.

    Attributes:
        projection: from the teacher's to the student's; every teacher id has one student id, or none.
        student_starts: (V,) bool, whether a token begins a word, or ends the text.
        teacher_starts: (W,) bool, the same.
        student_paths: (V) teacher tokens that spell each student token, empty if it cannot; None if not computed.
        prefixes: from the teacher's to the student's, by the longest beginning; None if not computed.
        counts: of a text in both tokenisations; None if nothing was counted.
    """

    projection: VocabularyProjection
    student_starts: Tensor
    teacher_starts: Tensor
    student_paths: tuple[tuple[int, ...], ...] | None = None
    prefixes: VocabularyProjection | None = None
    counts: TransportCounts | None = None

    @property
    def student_width(self) -> int:
        """V."""
        return self.projection.student_width

    @property
    def teacher_width(self) -> int:
        """W."""
        return self.projection.teacher_width

    def kernel(self, prior: float | None) -> VocabularyProjection | None:
        """Return the map that the counts make, see `TransportCounts.kernel`; None if nothing was counted.

        Args:
            prior: None for `PRIOR`.
        """
        if self.counts is None:
            return None
        return self.counts.kernel(self.projection, prior=PRIOR if prior is None else prior)

    def outcomes(self, prior: float | None) -> VocabularyProjection | None:
        """Return the map from the student's tokens to the teacher's, see `TransportCounts.outcomes`; None as above.

        Args:
            prior: None for `PRIOR`.
        Raises:
            TeacherError: `student_paths` were not computed.
        """
        if self.counts is None:
            return None
        if self.student_paths is None:
            raise TeacherError(
                "The student's tokens cannot be carried over without the teacher's spelling of them.",
                fix="make the map with `vocabularies`, or give Vocabularies the paths",
            )
        prior = PRIOR if prior is None else prior
        return self.counts.outcomes(self.first_ids.numpy(), _firsts(self.student_paths), prior=prior)

    @cached_property
    def first_ids(self) -> Tensor:
        """Return (W,) int64, the first student token of the text of each teacher token; -1: none."""
        mapped = np.diff(self.projection.row_ends) > 0
        first = np.full(self.teacher_width, -1, dtype=np.int64)
        first[mapped] = self.projection.student_ids[self.projection.row_ends[:-1][mapped]]
        return torch.from_numpy(first)

    @cached_property
    def common(self) -> tuple[Tensor, Tensor]:
        """Return (C,) teacher ids and (C,) student ids of the common tokens, no id twice.

        If several teacher ids mean one student id (`a` and `<0x61>`), the first is taken.
        """
        teacher_ids = np.flatnonzero(self._same.numpy())
        student_ids = self.first_ids.numpy()[teacher_ids]
        _, first = np.unique(student_ids, return_index=True)
        first.sort()
        return torch.from_numpy(teacher_ids[first]), torch.from_numpy(student_ids[first])

    @cached_property
    def _same(self) -> Tensor:
        """Return (W,) bool, whether the student has the same token."""
        return torch.from_numpy(np.isin(self.projection.how, [HOWS.index("exact"), HOWS.index("role")]))

    @cached_property
    def by_common(self) -> TokenGroups:
        """Return one group per common token."""
        return common_groups(self.first_ids, self._same, student_width=self.student_width)

    @cached_property
    def by_beginning(self) -> TokenGroups | None:
        """Return groups of tokens with the same beginning; None if the paths are not known."""
        return None if self.student_paths is None else groups_by_beginning(self.first_ids, self.student_paths)


def vocabularies(student: Reader, teacher: Reader, *, student_width: int, teacher_width: int) -> Vocabularies:
    """Build the mapping of a pair.

    Args:
        student_width, teacher_width: ids that the models have logits for.
    """
    student_meanings, teacher_meanings = student.loaded.meanings, teacher.loaded.meanings
    projection = project_vocabulary(
        teacher=teacher_meanings,
        student=student_meanings,
        pieces=canonical_pieces(student.tokenizer, student_meanings),
        teacher_fingerprint=fingerprint(teacher.loaded),
        student_fingerprint=fingerprint(student.loaded),
        teacher_width=teacher_width,
        student_width=student_width,
    )
    return Vocabularies(
        projection,
        _starts(student_meanings, student_width),
        _starts(teacher_meanings, teacher_width),
        _paths(student, teacher, student_width=student_width, teacher_width=teacher_width),
        longest_prefixes(projection, teacher=teacher_meanings, student=student_meanings),
    )


def _paths(student: Reader, teacher: Reader, *, student_width: int, teacher_width: int) -> tuple[tuple[int, ...], ...]:
    """Return (V) teacher tokens that spell each student token: the same token, else its pieces."""
    student_meanings, teacher_meanings = student.loaded.meanings, teacher.loaded.meanings
    cut = canonical_pieces(teacher.tokenizer, teacher_meanings)
    known: dict[bytes, list[int]] = {}

    def remembered(many: Sequence[bytes]) -> list[list[int]]:
        found = cut(many)
        known.update(zip(many, found, strict=True))
        return found

    back = project_vocabulary(
        teacher=student_meanings,
        student=teacher_meanings,
        pieces=remembered,
        teacher_fingerprint=fingerprint(student.loaded),
        student_fingerprint=fingerprint(teacher.loaded),
        teacher_width=student_width,
        student_width=teacher_width,
    )
    paths: list[tuple[int, ...]] = []
    for number in range(student_width):
        first = tuple(mapped.student_id for mapped in back.describe(number))
        pieces = tuple(known.get(student_meanings[number].data, ())) if back.how[number] == HOWS.index("pieces") else ()
        # for bytes that end inside a character only the first piece is known
        paths.append(pieces if pieces[:1] == first else first)
    return tuple(paths)


def _firsts(paths: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Return the first of each path; -1: it is empty."""
    return np.array([path[0] if path else -1 for path in paths], dtype=np.int64)


def _starts(meanings: list[TokenMeaning], width: int) -> Tensor:
    """Return (width,) bool: the token cannot continue a word, because of its first byte or because it ends the text.

    ASCII letters and digits, apostrophes and every byte of a non-ASCII character can continue a word.
    """
    starts = torch.zeros(width, dtype=torch.bool)
    for number, meaning in enumerate(meanings):
        if meaning.kind == "special":
            starts[number] = "eos" in meaning.roles
        elif meaning.data:
            first = meaning.data[0]
            starts[number] = first < 128 and not (chr(first).isalnum() or first == ord("'"))
    return starts

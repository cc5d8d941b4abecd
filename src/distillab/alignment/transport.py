"""Count which token the student's tokenizer writes where the teacher's writes another, and make a map of the counts.

Both tokenizers cut the same texts. Where a token u of the student begins, the teacher is k bytes into its token v: k is
0 where both begin a token. N(v, k, u) is how often that happened. No model is needed, and counts of several texts add
up.

Letters: T tokens, S spans, E entries, W teacher ids, V student ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from distillab.alignment.projection import HOWS, VocabularyProjection
from distillab.alignment.tables import TEXT, TokenTable
from distillab.errors import DataError, ShapeError, TokenizerMismatch
from distillab.files import write_bytes

FORMAT = "distillab transport 1"
PRIOR = 2.0
"""λ where none is set."""
_ID_BITS, _OFFSET_BITS = 22, 16  # of a key: teacher id, offset, student id, and a bit to spare
_FACTS = ("teacher_width", "student_width", "teacher_fingerprint", "student_fingerprint")
Ids = NDArray[np.int64]


class Counted(NamedTuple):
    """A token that the student writes at (v, k): how often, and its share with the fallback."""

    student_id: int
    times: int
    share: float


@dataclass(frozen=True, eq=False)
class TransportCounts:
    """N(v, k, u), the entries above 0.

    Attributes:
        keys: (E,) int64, v, k and u in one number each (`_packed`); ascending.
        counts: (E,) int64, > 0.
        teacher_width, student_width: W and V.
        teacher_fingerprint, student_fingerprint: of the two tokenizers.
    Raises:
        ShapeError: the arrays hold no such counts.
    """

    keys: Ids
    counts: Ids
    teacher_width: int
    student_width: int
    teacher_fingerprint: str
    student_fingerprint: str

    def __post_init__(self) -> None:
        keys, counts = self.keys, self.counts
        sound = (
            keys.ndim == 1
            and keys.shape == counts.shape
            and keys.dtype == counts.dtype == np.int64
            and all(0 < width <= 1 << _ID_BITS for width in (self.teacher_width, self.student_width))
            and bool((np.diff(keys) > 0).all())
            and bool((keys[:1] >= 0).all())
            and bool((self.teacher_ids < self.teacher_width).all() and (self.student_ids < self.student_width).all())
            and bool(((counts > 0) & (counts < 1 << 53)).all())
        )
        if not sound:
            raise ShapeError(
                "Counts have one ascending key each, of ids that the two vocabularies have, and are above 0.",
                facts=[
                    f"keys {keys.dtype} {keys.shape}, counts {counts.dtype} {counts.shape}",
                    f"{self.teacher_width} teacher ids, {self.student_width} student ids",
                ],
            )

    @property
    def teacher_ids(self) -> Ids:
        """(E,) v."""
        return self.keys >> (_ID_BITS + _OFFSET_BITS)

    @property
    def offsets(self) -> Ids:
        """(E,) k, bytes."""
        return (self.keys >> _ID_BITS) & ((1 << _OFFSET_BITS) - 1)

    @property
    def student_ids(self) -> Ids:
        """(E,) u."""
        return self.keys & ((1 << _ID_BITS) - 1)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the counts and of both tokenizers."""
        digest = hashlib.sha256("\n".join([FORMAT, *(str(getattr(self, name)) for name in _FACTS)]).encode())
        for array in (self.keys, self.counts):
            digest.update(array.astype("<i8").tobytes())
        return digest.hexdigest()[:32]

    def merged(self, others: Iterable[TransportCounts]) -> TransportCounts:
        """Return the counts of all texts together.

        Raises:
            TokenizerMismatch: others are of another pair of tokenizers.
        """
        parts = [self, *others]
        for part in parts:
            differ = [name for name in _FACTS if getattr(part, name) != getattr(self, name)]
            if differ:
                raise TokenizerMismatch(
                    "Counts of different tokenizers cannot be added.",
                    facts=[f"{name}: {getattr(self, name)} and {getattr(part, name)}" for name in differ],
                    fix="count all texts with the same two tokenizers",
                )
        keys, places = np.unique(np.concatenate([part.keys for part in parts]), return_inverse=True)
        # exact: below 2^53
        counts = np.bincount(places, np.concatenate([part.counts for part in parts]), minlength=len(keys))
        return TransportCounts(keys, counts.astype(np.int64), *(getattr(self, name) for name in _FACTS))

    def row(self, teacher_id: int, offset: int, *, fallback: int | None, prior: float) -> list[Counted]:
        """Return what the student writes at (v, k), the most likely first.

        Args:
            fallback: first token of the student's own encoding of the rest of v; None: there is none.
            prior: counts that are added to it.
        """
        low, high = np.searchsorted(self.keys, [_packed(teacher_id, offset, at) for at in (0, (1 << _ID_BITS) - 1)])
        # the last possible key, too
        high += int(high < len(self.keys) and self.keys[high] == _packed(teacher_id, offset, (1 << _ID_BITS) - 1))
        found = dict(zip(self.student_ids[low:high].tolist(), self.counts[low:high].tolist(), strict=True))
        weights: dict[int, float] = dict(found)
        if fallback is not None:
            weights[fallback] = weights.get(fallback, 0) + prior
        total = sum(weights.values())
        counted = [Counted(id_, found.get(id_, 0), weight / total) for id_, weight in weights.items()]
        return sorted(counted, key=lambda one: (-one.share, one.student_id))

    def kernel(self, first: VocabularyProjection, *, prior: float) -> VocabularyProjection:
        """Return K(u | v, 0), the student's next token where both begin a token.

            K(u | v, 0) = (N(v, 0, u) + prior · 1[u = g(v)]) / (N(v, 0, ·) + prior)

        Args:
            first: g, one student id for each teacher id, or none: `project_vocabulary` of the same tokenizers. A
                teacher id without one has its counts alone, and none of both is unmapped.
            prior: λ > 0.
        Raises:
            TokenizerMismatch: `first` is of other tokenizers.
        """
        for name in _FACTS:
            if getattr(first, name) != getattr(self, name):
                raise TokenizerMismatch(
                    "The counts are of other tokenizers than those at hand.",
                    facts=[f"{name}: {getattr(self, name)}", f"at hand: {getattr(first, name)}"],
                    fix="count the texts again",
                )
        begins = self.offsets == 0
        rows = np.repeat(np.arange(first.teacher_width), np.diff(first.row_ends))
        entries = (self.teacher_ids[begins], self.student_ids[begins], self.counts[begins])
        fallback = (rows, first.student_ids, prior * first.weights.astype(np.float64))
        return _shares(
            [entries, fallback],
            how=first.how,
            width=self.student_width,
            fingerprints=(self.teacher_fingerprint, self.student_fingerprint),
        )

    def outcomes(self, first_ids: Ids, back_ids: Ids, *, prior: float) -> VocabularyProjection:
        """Return L(v | u), the teacher's next token where both begin a token, for the student's u; a map to its tokens.

            L(v | u) = (N(v, 0, u) + prior · 1[v = h(u)]) / (N(·, 0, u) + prior)

        A token v that is in no row so is in that of g(v), with the count `prior`.

        Args:
            first_ids: (W,) g, the first student token of the text of each teacher token; -1: none.
            back_ids: (V,) h, the first teacher token of that of each student token; -1: none.
            prior: λ > 0.
        """
        begins = self.offsets == 0
        entries = (self.student_ids[begins], self.teacher_ids[begins], self.counts[begins])
        students = np.flatnonzero(back_ids >= 0)
        found = np.concatenate([entries[1], back_ids[students]])
        teachers = np.setdiff1d(np.flatnonzero(first_ids >= 0), found)
        return _shares(
            [
                entries,
                (students, back_ids[students], np.full(len(students), prior)),
                (first_ids[teachers], teachers, np.full(len(teachers), prior)),
            ],
            how=np.full(self.student_width, HOWS.index("unmapped"), dtype=np.uint8),
            width=self.teacher_width,
            fingerprints=(self.student_fingerprint, self.teacher_fingerprint),
        )

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, atomically."""
        metadata = {"format": FORMAT, **{name: str(getattr(self, name)) for name in _FACTS}}
        write_bytes(Path(path), save({"keys": self.keys, "counts": self.counts}, metadata))

    @classmethod
    def load(cls, path: str | Path) -> TransportCounts:
        """Read what `save` wrote.

        Raises:
            DataError: no file, or a damaged one.
        """
        try:
            with safe_open(str(path), framework="numpy") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise DataError(
                        "The file holds no counts of this format.",
                        where=str(path),
                        facts=[f"format: {metadata.get('format')!r}, not {FORMAT!r}"],
                        fix="count the texts again",
                    )
                arrays = [file.get_tensor(name) for name in ("keys", "counts")]
            widths = [int(metadata[name]) for name in _FACTS[:2]]
            return cls(*arrays, *widths, *(metadata[name] for name in _FACTS[2:]))
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, ShapeError) as error:
            raise DataError(
                "The file holds no counts.", where=str(path), facts=[str(error)], fix="count the texts again"
            ) from error


@dataclass(frozen=True, eq=False)
class TokensOfSpans:
    """Tokens of many rows, one after the other, of one tokenizer.

    Attributes:
        ids: (T,) int64.
        spans: (T,) int64, the span of each, numbered through all rows; -1: none.
        table: of the tokenizer.
    """

    ids: Ids
    spans: Ids
    table: TokenTable

    @cached_property
    def inside(self) -> tuple[Ids, Ids, Ids]:
        """Ids, spans and places of the tokens that are in one."""
        places = np.flatnonzero(self.spans >= 0)
        return self.ids[places], self.spans[places], places


class TransportCounter:
    """Count rows of two tokenizers.

    Args:
        student, teacher: their tokens.
        teacher_width, student_width, teacher_fingerprint, student_fingerprint: see `TransportCounts`.
    Raises:
        DataError: a token is longer than 65,535 bytes.
    """

    _MOST = 1 << 22  # entries that wait to be added

    def __init__(
        self,
        student: TokenTable,
        teacher: TokenTable,
        *,
        teacher_width: int,
        student_width: int,
        teacher_fingerprint: str,
        student_fingerprint: str,
    ) -> None:
        if int(teacher.lengths.max(initial=0)) >= 1 << _OFFSET_BITS:
            raise DataError(
                "A token of the teacher is too long to count what the student writes inside of it.",
                facts=[f"{int(teacher.lengths.max()):,} bytes, at most {(1 << _OFFSET_BITS) - 1:,}"],
            )
        self._tables = student, teacher
        nothing = np.zeros(0, dtype=np.int64)
        facts = (teacher_width, student_width, teacher_fingerprint, student_fingerprint)
        self._facts, self._parts = facts, [TransportCounts(nothing, nothing, *facts)]

    def add(self, student: tuple[Ids, Ids], teacher: tuple[Ids, Ids]) -> None:
        """Count rows that lie one after the other; each side is (T,) ids and (T,) spans, see `TokensOfSpans`.

        Spans that hold the same bytes on both sides count, and pairs of special tokens. Not counted are spans with
        the prefix space of one tokenizer: it has no place in the other one's text.
        """
        sides = [TokensOfSpans(*of, table) for of, table in zip((student, teacher), self._tables, strict=True)]
        keys, counts = np.unique(np.concatenate(list(_keys(*sides))), return_counts=True)
        self._parts.append(TransportCounts(keys, counts, *self._facts))
        if sum(len(part.keys) for part in self._parts) > self._MOST:
            self._parts = [self.counts()]

    def counts(self) -> TransportCounts:
        """Return what was counted."""
        return self._parts[0].merged(self._parts[1:])


def _shares(
    parts: Sequence[tuple[Ids, Ids, NDArray[Any]]],
    *,
    how: NDArray[np.uint8],
    width: int,
    fingerprints: tuple[str, str],
) -> VocabularyProjection:
    """Return the map with these entries (row, column, count), added up and divided by the sum of their row.

    Args:
        how: of each row; one with entries that is unmapped is a map to pieces.
        width: columns. fingerprints: of the rows' tokenizer and of the columns'.
    """
    rows, columns, counts = (np.concatenate(part) for part in zip(*parts, strict=True))
    pairs, places = np.unique(rows << _ID_BITS | columns, return_inverse=True)
    summed = np.bincount(places, counts)
    rows = pairs >> _ID_BITS
    totals = np.bincount(rows, summed, minlength=len(how))
    sizes = np.bincount(rows, minlength=len(how))
    mapped = np.where((sizes > 0) & (how >= HOWS.index("unmapped")), HOWS.index("pieces"), how)
    return VocabularyProjection(
        row_ends=np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)]),
        student_ids=pairs & ((1 << _ID_BITS) - 1),
        weights=(summed / totals[rows]).astype(np.float32),
        how=mapped.astype(np.uint8),
        student_width=width,
        teacher_fingerprint=fingerprints[0],
        student_fingerprint=fingerprints[1],
    )


def beginnings(student: TokensOfSpans, teacher: TokensOfSpans) -> tuple[Ids, Ids, Ids]:
    """Return where tokens of the student begin in those of the teacher.

    Returns:
        (N,) places among the student's tokens, (N,) of the teacher's token there among its own, (N,) bytes of that one
        before. They are of text, in spans that hold the same bytes on both sides.
    """
    return _beginnings(student, teacher, _spans_by_kind(student, teacher)[0])


def _beginnings(student: TokensOfSpans, teacher: TokensOfSpans, text: NDArray[np.bool_]) -> tuple[Ids, Ids, Ids]:
    (ours, our_starts), (theirs, their_starts) = (_starts(side, text) for side in (student, teacher))
    at = np.searchsorted(their_starts, our_starts, side="right") - 1
    return ours, theirs[at], our_starts - their_starts[at]


def _keys(student: TokensOfSpans, teacher: TokensOfSpans) -> Iterable[Ids]:
    """Yield a key for each student token that is counted: those of text, then special tokens."""
    text, pair = _spans_by_kind(student, teacher)
    ours, theirs, offsets = _beginnings(student, teacher, text)
    yield _packed(teacher.ids[theirs], offsets, student.ids[ours])
    student_ids, teacher_ids = (ids[pair[spans]] for ids, spans, _ in (student.inside, teacher.inside))
    yield _packed(teacher_ids, np.zeros_like(teacher_ids), student_ids)


def _spans_by_kind(student: TokensOfSpans, teacher: TokensOfSpans) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return (S,) spans of the same bytes of text, and (S,) those of one special token each."""
    size = 1 + max(int(side.spans.max(initial=-1)) for side in (student, teacher))
    sides = [(*side.inside[:2], side.table) for side in (student, teacher)]
    n_bytes, n_tokens, n_others = (
        [np.bincount(spans, of(ids, table), minlength=size) for ids, spans, table in sides]
        for of in (
            lambda ids, table: table.lengths[ids],
            lambda ids, _: np.ones(len(ids)),
            lambda ids, table: table.kinds[ids] != TEXT,
        )
    )
    text = (n_bytes[0] == n_bytes[1]) & (n_others[0] + n_others[1] == 0)
    return text, (n_tokens[0] == 1) & (n_tokens[1] == 1) & (n_others[0] + n_others[1] == 2)


def _starts(side: TokensOfSpans, kept: NDArray[np.bool_]) -> tuple[Ids, Ids]:
    """Return the places of the tokens in the spans that are kept, and the bytes before each of them."""
    ids, spans, places = side.inside
    kept_ids = ids[kept[spans]]
    lengths = side.table.lengths[kept_ids]
    return places[kept[spans]], np.cumsum(lengths) - lengths


def _packed(teacher_ids: Ids | int, offsets: Ids | int, student_ids: Ids | int) -> Ids:
    return np.asarray((teacher_ids << (_ID_BITS + _OFFSET_BITS)) | (offsets << _ID_BITS) | student_ids, dtype=np.int64)

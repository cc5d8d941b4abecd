"""Map each token of the teacher to a token of the student's vocabulary.

Both models predict the next token at the same place of a text. If the student has a token of the same bytes, that is
the student's next token. If it has none, its next token is the first of the pieces into which the student's tokenizer
cuts those bytes; this is exact if the text is cut as the tokenizer itself cuts it, and what follows does not change the
cut. Special tokens are mapped by content, then by role. The rest is unmapped, and its mass is reported.

Bytes that are part of a character, in a vocabulary that has whole characters: the next token is a byte token if no text
token begins with those bytes; else it depends on the character that they become, and the token is unmapped.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from distillab.alignment.projection import HOWS, How, VocabularyProjection
from distillab.alignment.tables import Meaning
from distillab.errors import DataError, ShapeError

Pieces = Callable[[Sequence[bytes]], Sequence[Sequence[int]]]
_ROLES = ("eos", "bos", "sep", "cls", "mask", "pad", "unk")


def project_vocabulary(
    *,
    teacher: Sequence[Meaning],
    student: Sequence[Meaning],
    pieces: Pieces,
    teacher_fingerprint: str,
    student_fingerprint: str,
    teacher_width: int | None = None,
    student_width: int | None = None,
) -> VocabularyProjection:
    """Make the projection of a pair. Each teacher id has one student id, of weight 1, or none.

    Args:
        teacher, student: what every id means.
        pieces: the student's own ids of some byte strings, in the middle of a text; an empty list where it has none.
        teacher_fingerprint, student_fingerprint: of the two tokenizers; stored, and compared when a file is read.
        teacher_width: columns of the teacher's logits; None: as many as ids. student_width: the same of the student.
    Raises:
        ShapeError: logits that are narrower than the vocabulary.
        DataError: `pieces` gives ids that do not spell the bytes that it was called with.
    """
    widths = [
        _width(name, given, len(meanings))
        for name, given, meanings in (("teacher", teacher_width, teacher), ("student", student_width, student))
    ]
    cut = _CheckedPieces(pieces, student)
    by_bytes = _by_bytes(student, cut)
    missing = {m.data for m in teacher if m.kind in ("text", "byte") and m.data not in by_bytes and m.data}
    by_pieces = _first_pieces(missing, student, by_bytes, cut)
    by_content, by_role = _specials(student)
    spellings = Counter(m.data for m in teacher if m.kind in ("text", "byte"))
    targets = np.full(widths[0], -1, dtype=np.int64)
    how = np.full(widths[0], HOWS.index("unused"), dtype=np.uint8)
    for id_, meaning in enumerate(teacher):
        found: tuple[How, int | None]
        if meaning.kind == "unused":
            continue
        if meaning.kind == "special":
            role = next((by_role[name] for name in _ROLES if name in meaning.roles and name in by_role), None)
            # The student can have the same special token as an ordinary added token.
            found = ("role", by_content.get(meaning.data, by_bytes.get(meaning.data, role)))
        elif spellings[meaning.data] > 1 and id_ < len(student) and student[id_] == meaning:
            # Several ids of the same bytes in both vocabularies ("a" and "<0x61>"): each maps to itself, so that the
            # same tokenizer twice gives the identity.
            found = ("exact", id_)
        elif meaning.data in by_bytes:
            found = ("exact", by_bytes[meaning.data])
        elif meaning.data in by_content:
            found = ("role", by_content[meaning.data])
        else:
            found = ("pieces", by_pieces.get(meaning.data))
        rule, target = found
        how[id_] = HOWS.index(rule if target is not None else "unmapped")
        targets[id_] = -1 if target is None else target
    return _one_to_each(targets, how, widths[1], teacher_fingerprint, student_fingerprint)


def longest_prefixes(
    first: VocabularyProjection, *, teacher: Sequence[Meaning], student: Sequence[Meaning]
) -> VocabularyProjection:
    """Return the projection whose pieces are the student's longest token with whose bytes a teacher's token begins.

    That is how byte-prefix marginalisation puts the teacher's tokens together (BPM, arXiv:2607.22334): by the bytes
    alone, whatever the student's tokenizer would write.

    Args:
        first: `project_vocabulary` of the same pair. Tokens that both have, and special tokens, go where it says.
    """
    by_bytes = {meaning.data: id_ for id_, meaning in reversed(list(enumerate(student))) if meaning.kind == "byte"}
    by_bytes |= {meaning.data: id_ for id_, meaning in reversed(list(enumerate(student))) if meaning.kind == "text"}
    longest = max(map(len, by_bytes), default=0)
    targets, how = np.full(first.teacher_width, -1, dtype=np.int64), first.how.copy()
    mapped = np.diff(first.row_ends) > 0
    targets[mapped] = first.student_ids[first.row_ends[:-1][mapped]]
    for id_, meaning in enumerate(teacher):
        if meaning.kind not in ("text", "byte") or how[id_] == HOWS.index("exact"):
            continue
        data = meaning.data
        found = next((by_bytes[data[:n]] for n in range(min(len(data), longest), 0, -1) if data[:n] in by_bytes), -1)
        targets[id_], how[id_] = found, HOWS.index("pieces" if found >= 0 else "unmapped")
    return _one_to_each(targets, how, first.student_width, first.teacher_fingerprint, first.student_fingerprint)


def _one_to_each(
    targets: NDArray[np.int64],
    how: NDArray[np.uint8],
    student_width: int,
    teacher_fingerprint: str,
    student_fingerprint: str,
) -> VocabularyProjection:
    """Return the projection to one student id for each teacher id; -1: none."""
    mapped = targets >= 0
    return VocabularyProjection(
        row_ends=np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(mapped)]),
        student_ids=targets[mapped],
        weights=np.ones(int(mapped.sum()), dtype=np.float32),
        how=how,
        student_width=student_width,
        teacher_fingerprint=teacher_fingerprint,
        student_fingerprint=student_fingerprint,
    )


def _width(name: str, given: int | None, tokens: int) -> int:
    if given is not None and given < tokens:
        raise ShapeError("Logits have a column for every token.", facts=[f"{name}: {given} columns, {tokens} tokens"])
    return tokens if given is None else given


class _CheckedPieces:
    """Cut bytes with the student's tokenizer, and check that the pieces spell these bytes."""

    def __init__(self, pieces: Pieces, student: Sequence[Meaning]) -> None:
        self._pieces, self._student = pieces, student

    def __call__(self, many: Sequence[bytes]) -> dict[bytes, list[int]]:
        """Return the pieces of those byte strings that have any."""
        answers = self._pieces(many)
        found = {data: list(ids) for data, ids in zip(many, answers, strict=True) if len(ids)}
        for data, ids in found.items():
            spelled = b"".join(self._student[id_].data for id_ in ids)
            if spelled != data:
                raise DataError(
                    "Pieces spell the bytes that they are made from.",
                    facts=[f"bytes:  {data!r}", f"pieces: {spelled!r}, ids {ids}"],
                    fix="leave out what the tokenizer's normaliser changes, and the prefix space",
                )
        return found


def _by_bytes(student: Sequence[Meaning], cut: _CheckedPieces) -> dict[bytes, int]:
    """Return one student id for each byte string: text before byte tokens; of several the tokenizer's choice."""
    texts: dict[bytes, list[int]] = {}
    singles: dict[bytes, int] = {}
    for id_, meaning in enumerate(student):
        if meaning.kind == "text" and meaning.data:
            texts.setdefault(meaning.data, []).append(id_)
        elif meaning.kind == "byte":
            singles.setdefault(meaning.data, id_)
    preferred = cut([data for data, ids in texts.items() if len(ids) > 1])
    chosen = {data: ids[0] for data, ids in texts.items()}
    chosen.update({data: ids[0] for data, ids in preferred.items() if len(ids) == 1 and ids[0] in texts[data]})
    return singles | chosen


def _first_pieces(
    missing: set[bytes], student: Sequence[Meaning], by_bytes: dict[bytes, int], cut: _CheckedPieces
) -> dict[bytes, int]:
    """Return the first piece of each byte string that the student has no token for."""
    found = cut(sorted(missing))
    # Bytes that end inside of a character: what comes first is decided by the whole characters before.
    heads = {data: head for data in missing - found.keys() if (head := _whole_characters(data)) and head != data}
    of_heads = cut(sorted({head for head in heads.values() if head not in by_bytes}))
    first = {data: ids[0] for data, ids in found.items()}
    for data, head in heads.items():
        if head in by_bytes:
            first[data] = by_bytes[head]
        elif head in of_heads:
            first[data] = of_heads[head][0]
    texts = sorted(meaning.data for meaning in student if meaning.kind == "text")
    for data in missing - first.keys():
        part = _part_of_character(data)
        if part and part[:1] in by_bytes and not _any_begins_with(texts, part):
            first[data] = by_bytes[part[:1]]
    return first


def _whole_characters(data: bytes) -> bytes:
    """Return the whole UTF-8 characters with which the bytes begin."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return data[: error.start]
    return data


def _part_of_character(data: bytes) -> bytes:
    """Return the bytes before the next character begins; empty if they begin with a whole one."""
    if _whole_characters(data):
        return b""
    end = next((place for place in range(1, len(data)) if data[place] & 0xC0 != 0x80), len(data))
    return data[:end]


def _any_begins_with(ordered: Sequence[bytes], part: bytes) -> bool:
    place = bisect.bisect_left(ordered, part)
    return place < len(ordered) and ordered[place].startswith(part)


def _specials(student: Sequence[Meaning]) -> tuple[dict[bytes, int], dict[str, int]]:
    """Return the student ids of special tokens by content and by role; of several with one role the first."""
    by_content: dict[bytes, int] = {}
    by_role: dict[str, int] = {}
    for id_, meaning in enumerate(student):
        if meaning.kind == "special":
            by_content.setdefault(meaning.data, id_)
            for role in meaning.roles:
                by_role.setdefault(role, id_)
    return by_content, by_role

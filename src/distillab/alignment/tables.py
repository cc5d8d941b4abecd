"""What the ids of a tokenizer spell, as arrays.

A token is text (bytes, also the single bytes of byte fallback), a *marker* (a special token: it stands for no text,
another tokenizer may have its like, or spell it), or a *hole* (`unk`: it hides what was written).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

TEXT, MARKER, HOLE, UNUSED = 0, 1, 2, 3
# An unk that also begins or ends texts (GPT-2 has one special token for all) is never made from text.
_ROLES_OF_MARKERS = frozenset({"bos", "eos", "sep", "cls", "mask"})
# That both sides call a token unk or pad does not make it the same place in a text.
_ROLES_THAT_PAIR = frozenset({"bos", "eos", "sep", "cls", "mask"})


class Meaning(Protocol):
    """What one id means; `pairing.token_bytes.TokenMeaning` is one."""

    @property
    def kind(self) -> str:
        """`text`, `byte`, `special` or `unused`."""
        ...

    @property
    def data(self) -> bytes:
        """The bytes of the text; of a special token its content."""
        ...

    @property
    def roles(self) -> frozenset[str]:
        """Of a special token: bos, eos, unk, …"""
        ...


@dataclass(frozen=True)
class Marker:
    """A special token: its id, its content as UTF-8 bytes, its roles."""

    id: int
    content: bytes
    roles: frozenset[str]

    def pairs_with(self, other: Marker) -> bool:
        """Whether the two stand for the same place in a text: the same content, or a role in common."""
        return self.content == other.content or bool(self.roles & other.roles & _ROLES_THAT_PAIR)


@dataclass(frozen=True, eq=False)
class TokenTable:
    """The ids of one tokenizer.

    Attributes:
        kinds: (V,) uint8, TEXT, MARKER, HOLE or UNUSED.
        lengths: (V,) int64, bytes of text; 0 where the kind is not TEXT.
        starts: (V,) int64, where the bytes of an id begin in `pool`.
        pool: (total bytes,) uint8, the bytes of all text ids one after the other.
        begins_text: (V,) bool, markers with the role bos.
        marker_numbers: (V,) int64, place in `markers`; -1 where the kind is not MARKER.
        markers: the special tokens.
    """

    kinds: NDArray[np.uint8]
    lengths: NDArray[np.int64]
    starts: NDArray[np.int64]
    pool: NDArray[np.uint8]
    begins_text: NDArray[np.bool_]
    marker_numbers: NDArray[np.int64]
    markers: tuple[Marker, ...]

    @classmethod
    def of(cls, meanings: Sequence[Meaning]) -> TokenTable:
        """The table of `meanings[id]` for every id from 0 on."""
        markers: list[Marker] = []
        spelled: list[bytes] = []
        kinds = np.empty(len(meanings), dtype=np.uint8)
        numbers = np.full(len(meanings), -1, dtype=np.int64)
        begins = np.zeros(len(meanings), dtype=np.bool_)
        for number, meaning in enumerate(meanings):
            kinds[number] = _kind(meaning)
            spelled.append(meaning.data if kinds[number] == TEXT else b"")
            if kinds[number] == MARKER:
                numbers[number] = len(markers)
                begins[number] = "bos" in meaning.roles
                markers.append(Marker(number, meaning.data, meaning.roles))
        lengths = np.array([len(data) for data in spelled], dtype=np.int64)
        return cls(
            kinds=kinds,
            lengths=lengths,
            starts=np.cumsum(lengths) - lengths,
            pool=np.frombuffer(b"".join(spelled), dtype=np.uint8),
            begins_text=begins,
            marker_numbers=numbers,
            markers=tuple(markers),
        )

    def __len__(self) -> int:
        return len(self.kinds)

    def bytes_of(self, id_: int) -> bytes:
        """The text of one id; nothing for a marker, a hole or an unused id."""
        start = self.starts[id_]
        return self.pool[start : start + self.lengths[id_]].tobytes()

    def spell(self, ids: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The bytes of the text of all these ids, one after the other."""
        lengths = self.lengths[ids]
        ends = np.cumsum(lengths)
        places = np.repeat(self.starts[ids] - (ends - lengths), lengths)
        places += np.arange(len(places))
        return self.pool[places]


def pairing_markers(student: TokenTable, teacher: TokenTable) -> NDArray[np.bool_]:
    """(student markers, teacher markers) bool: which two stand for the same place in a text."""
    pairs = [[ours.pairs_with(theirs) for theirs in teacher.markers] for ours in student.markers]
    return np.array(pairs, dtype=np.bool_).reshape(len(student.markers), len(teacher.markers))


def _kind(meaning: Meaning) -> int:
    if meaning.kind == "unused":
        return UNUSED
    if meaning.kind == "special":
        return HOLE if "unk" in meaning.roles and not meaning.roles & _ROLES_OF_MARKERS else MARKER
    # A token of no bytes stands for no text, as a marker does.
    return TEXT if meaning.data else MARKER

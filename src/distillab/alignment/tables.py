"""Tabulate what the ids of a tokenizer spell, as arrays.

A token is text (bytes, also the single bytes of byte fallback), a special token (it stands for no text; another
tokenizer can have the same special token, or spell its content as text), `unk` (its text is not known), or unused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

TEXT, SPECIAL, UNKNOWN, UNUSED = 0, 1, 2, 3
# An unk that also begins or ends texts (GPT-2 has one special token for all) is never made from text.
_ROLES_BESIDE_UNK = frozenset({"bos", "eos", "sep", "cls", "mask"})
# Two tokens with the role unk or pad in common do not stand for the same place in a text.
_ROLES_THAT_PAIR = frozenset({"bos", "eos", "sep", "cls", "mask"})


class Meaning(Protocol):
    """The meaning of one id; `pairing.token_bytes.TokenMeaning` is one."""

    @property
    def kind(self) -> str:
        """`text`, `byte`, `special` or `unused`."""
        ...

    @property
    def data(self) -> bytes:
        """Bytes of the text; for a special token its content."""
        ...

    @property
    def roles(self) -> frozenset[str]:
        """Roles of a special token: bos, eos, unk, …"""
        ...


@dataclass(frozen=True)
class SpecialToken:
    """A special token: its id, its content as UTF-8 bytes, its roles."""

    id: int
    content: bytes
    roles: frozenset[str]

    def matches(self, other: SpecialToken) -> bool:
        """Return whether the two stand for the same place in a text: the same content, or a role in common."""
        return self.content == other.content or bool(self.roles & other.roles & _ROLES_THAT_PAIR)


@dataclass(frozen=True, eq=False)
class TokenTable:
    """The ids of one tokenizer.

    Attributes:
        kinds: (V,) uint8, TEXT, SPECIAL, UNKNOWN or UNUSED.
        lengths: (V,) int64, bytes of text; 0 where the kind is not TEXT.
        starts: (V,) int64, where the bytes of an id begin in `pool`.
        pool: (total bytes,) uint8, the bytes of all text ids one after the other.
        begins_text: (V,) bool, special tokens with the role bos.
        special_numbers: (V,) int64, place in `special_tokens`; -1 where the kind is not SPECIAL.
        special_tokens: the special tokens.
    """

    kinds: NDArray[np.uint8]
    lengths: NDArray[np.int64]
    starts: NDArray[np.int64]
    pool: NDArray[np.uint8]
    begins_text: NDArray[np.bool_]
    special_numbers: NDArray[np.int64]
    special_tokens: tuple[SpecialToken, ...]

    @classmethod
    def of(cls, meanings: Sequence[Meaning]) -> TokenTable:
        """Make the table of `meanings[id]`, for every id from 0 on."""
        special_tokens: list[SpecialToken] = []
        spelled: list[bytes] = []
        kinds = np.empty(len(meanings), dtype=np.uint8)
        numbers = np.full(len(meanings), -1, dtype=np.int64)
        begins = np.zeros(len(meanings), dtype=np.bool_)
        for number, meaning in enumerate(meanings):
            kinds[number] = _kind(meaning)
            spelled.append(meaning.data if kinds[number] == TEXT else b"")
            if kinds[number] == SPECIAL:
                numbers[number] = len(special_tokens)
                begins[number] = "bos" in meaning.roles
                special_tokens.append(SpecialToken(number, meaning.data, meaning.roles))
        lengths = np.array([len(data) for data in spelled], dtype=np.int64)
        return cls(
            kinds=kinds,
            lengths=lengths,
            starts=np.cumsum(lengths) - lengths,
            pool=np.frombuffer(b"".join(spelled), dtype=np.uint8),
            begins_text=begins,
            special_numbers=numbers,
            special_tokens=tuple(special_tokens),
        )

    def __len__(self) -> int:
        return len(self.kinds)

    def bytes_of(self, id_: int) -> bytes:
        """Return the text of one id; empty for a special token, `unk` or an unused id."""
        start = self.starts[id_]
        return self.pool[start : start + self.lengths[id_]].tobytes()

    def spell(self, ids: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the bytes of all these ids, one after the other."""
        lengths = self.lengths[ids]
        ends = np.cumsum(lengths)
        places = np.repeat(self.starts[ids] - (ends - lengths), lengths)
        places += np.arange(len(places))
        return self.pool[places]


def match_special_tokens(student: TokenTable, teacher: TokenTable) -> NDArray[np.bool_]:
    """Return (student's special tokens, teacher's) bool: which two stand for the same place in a text."""
    pairs = [[a.matches(b) for b in teacher.special_tokens] for a in student.special_tokens]
    return np.array(pairs, dtype=np.bool_).reshape(len(student.special_tokens), len(teacher.special_tokens))


def _kind(meaning: Meaning) -> int:
    if meaning.kind == "unused":
        return UNUSED
    if meaning.kind == "special":
        return UNKNOWN if "unk" in meaning.roles and not meaning.roles & _ROLES_BESIDE_UNK else SPECIAL
    # A token of no bytes stands for no text, as a special token does.
    return TEXT if meaning.data else SPECIAL

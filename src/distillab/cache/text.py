"""Encode and decode the kind `text`: the teacher's answer to a prompt, as UTF-8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from distillab.cache.layout import Cell, ColumnType, KindLayout, Section
from distillab.cache.streams import Stored
from distillab.errors import CacheCorrupt, ShapeError

Finish = Literal["stop", "length", "filtered", "refused"]
"""How an answer ended: by a stop token; cut at max_new_tokens; filtered by a server; the prompt refused by a server."""

_LONGEST = 2**26
_LETTERS: Mapping[Finish, bytes] = {"stop": b"s", "length": b"l", "filtered": b"f", "refused": b"r"}


@dataclass(frozen=True, eq=False)
class Text(Section):
    """The teacher's answer."""

    answer: str
    finish: Finish

    def split(self, lengths: Sequence[int]) -> list[Text]:
        """Return itself: texts are not joined."""
        return [self]


class TextLayout(KindLayout):
    """The teacher's answer as UTF-8, and how it ended."""

    section: ClassVar[type[Section]] = Text
    joins: ClassVar[bool] = False

    kind: Literal["text"] = "text"

    def encode(self, section: Text) -> bytes:
        """Return the record of one row: the first letter of how it ended, then the answer."""
        return _LETTERS[section.finish] + section.answer.encode()

    def decode(self, records: Sequence[Stored], lengths: Sequence[int]) -> Text:
        """Return the answer of one record.

        Raises:
            ShapeError: several records.
            CacheCorrupt: it is none.
        """
        if len(records) != 1:
            raise ShapeError("Texts cannot be joined: decode them one by one.", facts=(f"{len(records)} records",))
        record = bytes(records[0])
        finish = next((name for name, letter in _LETTERS.items() if letter == record[:1]), None)
        if finish is None:
            raise CacheCorrupt("A stored answer does not state how it ended.", facts=(f"first byte: {record[:1]!r}",))
        try:
            answer = record[1:].decode()
        except UnicodeDecodeError as error:
            raise CacheCorrupt("A stored answer is not UTF-8.", facts=(str(error),)) from error
        return Text(answer, finish)

    def record_bytes(self, *, tokens: int, scored: int, each: float | None = None) -> int:
        """Raise ShapeError."""
        raise ShapeError("The length of the teacher's answers is not known in advance.")

    def most_bytes(self, *, tokens: int, scored: int) -> int:
        """See `RecordLayout`."""
        return _LONGEST

    def described(self) -> str:
        """See `RecordLayout`."""
        return "the teacher's answers"

    def columns(self) -> Mapping[str, tuple[ColumnType, int]]:
        """See `KindLayout`."""
        return {"answer": ("text", 0), "finish": ("text", 0)}

    def cells(self, section: Text) -> Mapping[str, Cell]:
        """Return column -> cell of one row."""
        return {"answer": section.answer, "finish": section.finish}

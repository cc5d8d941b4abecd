"""Find out what a chat template writes around the texts of a conversation, whatever these texts are.

A template is rendered once with an `OpaqueText` in place of each text. It can be written, joined and trimmed; any
other use, such as a comparison or a search, raises `Inspected`. A rendering that raises nothing cannot depend on the
texts, so it holds for all conversations with the same roles.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from jinja2 import nodes

OPEN, CLOSE = "\ufdee", "\ufdef"  # noncharacters of Unicode, around the number of a slot
_SLOT = re.compile(f"{OPEN}(\\d+)(t?){CLOSE}")
# These keep what is written as a text that the template can read again.
_CAPTURING = (nodes.AssignBlock, nodes.Block, nodes.CallBlock, nodes.FilterBlock, nodes.Macro)
# The answers of Jinja's tests on a text.
TESTS = {"string": True, "defined": True, "undefined": False, "none": False, "mapping": False, "number": False}
TESTS |= {"boolean": False, "integer": False, "float": False, "callable": False}


class Inspected(Exception):
    """A template uses a text in another way than writing it."""


class Slot(NamedTuple):
    """A place in a rendering: the number of the turn whose text is written there, and whether it is trimmed."""

    turn: int
    trimmed: bool


def _inspected(self: object, *_: object) -> NoReturn:
    raise Inspected


class OpaqueText:
    """A text that is not known, or several joined.

    Args:
        parts: literal text and slots.
        filled: whether each turn's text has any character, which a template may ask for.
    """

    __slots__ = ("_filled", "_parts")

    def __init__(self, parts: Sequence[str | Slot], filled: Sequence[bool]) -> None:
        self._parts, self._filled = tuple(parts), filled

    def __add__(self, other: object) -> OpaqueText:
        return OpaqueText((*self._parts, *_parts_of(other)), self._filled)

    def __radd__(self, other: object) -> OpaqueText:
        return OpaqueText((*_parts_of(other), *self._parts), self._filled)

    def __bool__(self) -> bool:
        if any(isinstance(part, Slot) and part.trimmed for part in self._parts):
            raise Inspected
        return any(self._filled[part.turn] if isinstance(part, Slot) else part for part in self._parts)

    def strip(self) -> OpaqueText:
        """Return the text without white space around it."""
        [part] = self._parts if len(self._parts) == 1 else [""]
        if not isinstance(part, Slot):
            raise Inspected
        return OpaqueText([part._replace(trimmed=True)], self._filled)

    def written(self) -> str:
        """Return the text for the output, with marks for its slots."""
        return "".join(
            part if isinstance(part, str) else f"{OPEN}{part.turn}{'t' * part.trimmed}{CLOSE}" for part in self._parts
        )

    __str__ = __repr__ = __format__ = __getattr__ = __eq__ = __hash__ = __len__ = __iter__ = __contains__ = _inspected
    __getitem__ = __lt__ = __le__ = __gt__ = __ge__ = __mul__ = __rmul__ = __mod__ = __rmod__ = _inspected


class Slots:
    """A rendering with slots.

    Args:
        rendered: with the marks of slots.
    """

    def __init__(self, rendered: str) -> None:
        literal, *rest = _SLOT.split(rendered)
        self._first = literal
        self._others = [(Slot(int(rest[at]), bool(rest[at + 1])), rest[at + 2]) for at in range(0, len(rest), 3)]

    def filled(self, texts: Sequence[str]) -> str:
        """Return the rendering of these texts."""
        parts = [self._first]
        for slot, literal in self._others:
            parts += (texts[slot.turn].strip() if slot.trimmed else texts[slot.turn], literal)
        return "".join(parts)


def captures_output(tree: nodes.Template) -> bool:
    """Return whether a template can read again what it has written."""
    return next(tree.find_all(_CAPTURING), None) is not None


def _parts_of(value: object) -> tuple[str | Slot, ...]:
    if isinstance(value, OpaqueText):
        return value._parts
    if isinstance(value, str):
        return (value,)
    raise Inspected

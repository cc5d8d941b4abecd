"""Record what a chat template does with the texts of a conversation, and do the same with others.

A template is rendered once with an `OpaqueText` in place of each text. What it asks of a text (`'</think>' in text`)
and makes of it (`text.split('</think>')[-1]`) is recorded; a use that cannot be recorded raises `Inspected`. Other
texts with the same roles for which all answers are the same are rendered without the template.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, NoReturn

from jinja2 import nodes

OPEN, CLOSE = "\ufdee", "\ufdef"  # noncharacters of Unicode, around the number of a text
_SLOT = re.compile(f"{OPEN}(\\d+){CLOSE}")
# These keep what is written as a text that the template can read again.
_CAPTURING = (nodes.AssignBlock, nodes.Block, nodes.CallBlock, nodes.FilterBlock, nodes.Macro)
# The answers of Jinja's tests on a text.
TESTS = {"string": True, "defined": True, "undefined": False, "none": False, "mapping": False, "number": False}
TESTS |= {"boolean": False, "integer": False, "float": False, "callable": False}
# None makes more text than there was.
_METHODS = {"endswith", "lstrip", "rstrip", "split", "startswith", "strip"}
_MOST_PARTS = 32


class Inspected(Exception):
    """A template uses a text in a way that is not recorded."""


class Step(NamedTuple):
    """A method called on a text.

    Attributes:
        text: its number: those of the conversation first, then those that the steps made.
        method: a function of the text and `args`.
        answer: what the method has to return, True or False, or how many texts; None: it makes one text.
    """

    text: int
    method: Callable[..., Any]
    args: tuple[str | int | None, ...]
    answer: bool | int | None


class Trace:
    """The steps of one rendering.

    Args:
        texts: of the conversation.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.steps: list[Step] = []
        self._texts = list(texts)
        self._known: dict[tuple[object, ...], Any] = {}

    def opaque(self) -> list[OpaqueText]:
        """Return the texts."""
        return [OpaqueText(self, [number]) for number in range(len(self._texts))]

    def asked(self, text: int, method: Callable[..., Any], *args: Any) -> Any:
        """Record a step, once, and return its result: a text, several, or True or False.

        Raises:
            Inspected: it depends on more than one text, or makes many.
        """
        if not all(isinstance(value, str | int | None) for value in args):
            raise Inspected
        call = (text, method, args)
        if call not in self._known:
            self._known[call] = self._recorded(*call)
        return self._known[call]

    def _recorded(self, text: int, method: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        found = method(self._texts[text], *args)
        answer = None if isinstance(found, str) else len(found) if isinstance(found, list) else found
        if isinstance(found, list) and len(found) > _MOST_PARTS:
            raise Inspected
        self.steps.append(Step(text, method, args, answer))
        if isinstance(found, bool):
            return found
        made = [found] if isinstance(found, str) else found
        first = len(self._texts)
        self._texts += made
        several = tuple(OpaqueText(self, [first + number]) for number in range(len(made)))
        return several if isinstance(found, list) else several[0]


def _inspected(self: object, *_: object) -> NoReturn:
    raise Inspected


class OpaqueText:
    """A text that is not known, or several joined.

    Args:
        trace: records what is asked of it.
        parts: literal text and numbers of texts.
    """

    __slots__ = ("_parts", "_trace")

    def __init__(self, trace: Trace, parts: Sequence[str | int]) -> None:
        self._trace, self._parts = trace, tuple(parts)

    def __add__(self, other: object) -> OpaqueText:
        return OpaqueText(self._trace, (*self._parts, *_parts_of(other)))

    def __radd__(self, other: object) -> OpaqueText:
        return OpaqueText(self._trace, (*_parts_of(other), *self._parts))

    def __bool__(self) -> bool:
        return any(part if isinstance(part, str) else self._trace.asked(part, bool) for part in self._parts)

    def __eq__(self, other: object) -> bool:
        return bool(self._asked(str.__eq__, other))

    def __contains__(self, other: object) -> bool:
        return bool(self._asked(str.__contains__, other))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in _METHODS:
            raise Inspected
        return partial(self._asked, getattr(str, name))

    def _asked(self, method: Callable[..., Any], *args: object) -> Any:
        if len(self._parts) > 1 or isinstance(self._parts[0], str):
            raise Inspected
        return self._trace.asked(self._parts[0], method, *args)

    def written(self) -> str:
        """Return the text for the output, with marks for the texts in it."""
        return "".join(part if isinstance(part, str) else f"{OPEN}{part}{CLOSE}" for part in self._parts)

    __str__ = __repr__ = __format__ = __hash__ = __len__ = __iter__ = _inspected
    __getitem__ = __lt__ = __le__ = __gt__ = __ge__ = __mul__ = __rmul__ = __mod__ = __rmod__ = _inspected


class Slots:
    """A rendering with places for the texts.

    Args:
        rendered: with the marks of texts.
        steps: of the same rendering.
    """

    def __init__(self, rendered: str, steps: Sequence[Step]) -> None:
        self._parts = _SLOT.split(rendered)
        self._numbers = [int(number) for number in self._parts[1::2]]
        self._steps = tuple(steps)

    def filled(self, texts: Sequence[str]) -> str | None:
        """Return the rendering of these texts; None: a step has another answer."""
        known = [*texts]
        for text, method, args, answer in self._steps:
            found = method(known[text], *args)
            if answer is None:
                known.append(found)
            elif isinstance(found, list):
                if len(found) != answer:
                    return None
                known += found
            elif found is not answer:
                return None
        parts = self._parts.copy()
        parts[1::2] = [known[number] for number in self._numbers]
        return "".join(parts)


def captures_output(tree: nodes.Template) -> bool:
    """Return whether a template can read again what it has written."""
    return next(tree.find_all(_CAPTURING), None) is not None


def _parts_of(value: object) -> tuple[str | int, ...]:
    if isinstance(value, OpaqueText):
        return value._parts
    if isinstance(value, str):
        return (value,)
    raise Inspected

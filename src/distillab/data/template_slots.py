"""Record what a chat template does with the texts of a conversation, and do the same with others.

A template is rendered once with an `OpaqueText` in place of each text. What it asks of a text (`'</think>' in text`)
and makes of it (`text.split('</think>')[-1]`) is recorded; a use that cannot be recorded raises `Inspected`. Other
texts with the same roles for which all answers are the same are rendered without the template.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from operator import eq, ge, gt, le, lt
from typing import Any, NamedTuple, NoReturn

OPEN, CLOSE = "\ufdee", "\ufdef"  # noncharacters of Unicode, around the number of a text
_SLOT = re.compile(f"{OPEN}(\\d+){CLOSE}")
# The answers of Jinja's tests on a text.
TESTS = {"string": True, "defined": True, "undefined": False, "none": False, "mapping": False, "number": False}
TESTS |= {"boolean": False, "integer": False, "float": False, "callable": False, "true": False, "false": False}
TESTS |= {"iterable": True, "sequence": True, "escaped": False}
# None makes more text than there was.
_METHODS = {"endswith", "lstrip", "rstrip", "split", "startswith", "strip"}
_MOST_PARTS = 32


class Inspected(Exception):
    """A template uses a text in a way that is not recorded."""


class Parts(tuple[str | int, ...]):
    """A text: literal text and numbers of texts, those of the conversation first, then those that the steps made."""

    __slots__ = ()

    def of(self, texts: Sequence[str]) -> str:
        """Return it of these texts."""
        return "".join([part if isinstance(part, str) else texts[part] for part in self])


class Call(NamedTuple):
    """A method called on a text."""

    text: Parts
    method: Callable[..., Any]
    args: tuple[str | int | Parts | None, ...]

    def result(self, texts: Sequence[str]) -> Any:
        """Return what the method returns of these texts."""
        return self.method(
            self.text.of(texts), *(arg.of(texts) if isinstance(arg, Parts) else arg for arg in self.args)
        )


class Step(NamedTuple):
    """A call, and what it has to return, True or False, or how many texts; None: it makes one text."""

    call: Call
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
        return [OpaqueText(self, Parts([number])) for number in range(len(self._texts))]

    def written(self, text: str) -> str | OpaqueText:
        """Return what a template has written, whose marks are texts."""
        parts = [int(part) if place % 2 else part for place, part in enumerate(_SLOT.split(text))]
        return OpaqueText(self, Parts(part for part in parts if part != "")) if len(parts) > 1 else text

    def asked(self, call: Call) -> Any:
        """Record a call, once, and return its result: a text, several, or True or False.

        Raises:
            Inspected: it has other arguments, or makes many texts.
        """
        if not all(isinstance(value, str | int | Parts | None) for value in call.args):
            raise Inspected
        if call not in self._known:
            self._known[call] = self._recorded(call)
        return self._known[call]

    def _recorded(self, call: Call) -> Any:
        found = call.result(self._texts)
        if isinstance(found, list) and len(found) > _MOST_PARTS:
            raise Inspected
        answer = None if isinstance(found, str) else len(found) if isinstance(found, list) else found
        self.steps.append(Step(call, answer))
        if isinstance(found, bool):
            return found
        made = [found] if isinstance(found, str) else found
        first = len(self._texts)
        self._texts += made
        several = tuple(OpaqueText(self, Parts([first + number])) for number in range(len(made)))
        return several if isinstance(found, list) else several[0]


def _refuse(self: object, *_: object) -> NoReturn:
    raise Inspected


_inspected: Any = _refuse  # of any signature


class Opaque:
    """A value that is not known. A use of it that cannot be recorded raises `Inspected`."""

    __slots__ = ()
    __add__ = __radd__ = __contains__ = __bool__ = __eq__ = __lt__ = __le__ = __gt__ = __ge__ = _inspected
    __str__ = __repr__ = __format__ = __hash__ = __len__ = __iter__ = __index__ = _inspected
    __getitem__ = __getattr__ = __mul__ = __rmul__ = __mod__ = __rmod__ = _inspected


class OpaqueText(Opaque):
    """A text that is not known, or several joined.

    Args:
        trace: records what is asked of it.
        parts: of it.
    """

    __slots__ = ("_parts", "_trace")
    __hash__ = _inspected

    def __init__(self, trace: Trace, parts: Parts) -> None:
        self._trace, self._parts = trace, parts

    def __add__(self, other: object) -> OpaqueText:
        return OpaqueText(self._trace, Parts([*self._parts, *_parts_of(other)]))

    def __radd__(self, other: object) -> OpaqueText:
        return OpaqueText(self._trace, Parts([*_parts_of(other), *self._parts]))

    def __bool__(self) -> bool:
        return bool(self._asked(bool))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str | OpaqueText) and bool(self._asked(str.__eq__, other))

    def __contains__(self, other: object) -> bool:
        return bool(self._asked(str.__contains__, other))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in _METHODS:
            raise Inspected
        return partial(self._asked, getattr(str, name))

    def _asked(self, method: Callable[..., Any], *args: Any) -> Any:
        """Record a call of a method, and return its result."""
        known = (arg._parts if isinstance(arg, OpaqueText) else arg for arg in args)
        return self._trace.asked(Call(self._parts, method, tuple(known)))


def _of_length(compare: Callable[[Any, Any], bool]) -> Callable[[OpaqueLength, object], bool]:
    def compared(text: str, other: object) -> bool:
        return compare(len(text), other)

    def asked(self: OpaqueLength, other: object) -> bool:
        return bool(self._text._asked(compared, other))

    return asked


class OpaqueLength(Opaque):
    """The length of a text that is not known, which can be compared with numbers."""

    __slots__ = ("_text",)
    __hash__ = _inspected
    __eq__, __lt__, __le__, __gt__, __ge__ = map(_of_length, (eq, lt, le, gt, ge))

    def __init__(self, text: OpaqueText) -> None:
        self._text = text

    def __bool__(self) -> bool:
        return bool(self._text)


class Slots:
    """A rendering with places for the texts.

    Args:
        rendered: of opaque texts.
        steps: of the same rendering.
    """

    def __init__(self, rendered: str | OpaqueText, steps: Sequence[Step]) -> None:
        self._parts = _parts_of(rendered)
        self._steps = tuple(steps)

    def filled(self, texts: Sequence[str]) -> str | None:
        """Return the rendering of these texts; None: a step has another answer."""
        known = [*texts]
        for call, answer in self._steps:
            found = call.result(known)
            if answer is None:
                known.append(found)
            elif isinstance(found, list):
                if len(found) != answer:
                    return None
                known += found
            elif found is not answer:
                return None
        return self._parts.of(known)


def marked(text: OpaqueText) -> str:
    """Return a text for the output, with marks for the texts in it."""
    return "".join(part if isinstance(part, str) else f"{OPEN}{part}{CLOSE}" for part in text._parts)


def _parts_of(value: object) -> Parts:
    if isinstance(value, OpaqueText):
        return value._parts
    if isinstance(value, str):
        return Parts([value])
    raise Inspected

"""The one way to the terminal: invisible characters are shown as signs, and secrets are not shown.

A title, a name, a path or a row may hold codes that colour, clear or overwrite what stands on a terminal.
"""

from __future__ import annotations

import sys
import unicodedata
from typing import TYPE_CHECKING, Any, TextIO

from distillab.redaction import redacted

if TYPE_CHECKING:
    from rich.console import Console

# Joiners shape letters in Persian, Indic scripts and emoji; they hide nothing by themselves.
_HARMLESS = frozenset("\n\t\u200c\u200d")


def visible(text: str) -> str:
    """The text with every invisible or order-changing character shown as a sign.

    Line feed, tab and the two joiners stay. C0 controls become control pictures, all other characters
    of the Unicode categories Cc, Cf, Cs, Zl and Zp become `⟨U+…⟩`.

    >>> visible("a\\x1b[31mb\\u202ec")
    'a␛[31mb⟨U+202E⟩c'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_visible_character(character) for character in text)


def plural(count: int, noun: str) -> str:
    """A count with its noun.

    >>> plural(1, "row"), plural(2_000, "row")
    ('1 row', '2,000 rows')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def echo(text: str, *, error: bool = False) -> None:
    """Print a text as a line on standard output, or on standard error."""
    print(visible(redacted(text)), file=sys.stderr if error else sys.stdout, flush=error)


def plain_console(file: TextIO | None = None, *, record: bool = False) -> Console:
    """A console that prints texts as they are, but nothing invisible; styles are its own.

    Args:
        file: where it prints; default: standard output.
        record: keep what is printed, for `export_html`.
    """
    from rich.console import Console

    class Plain(Console):
        def print(self, *objects: Any, **settings: Any) -> None:
            shown = [visible(redacted(item)) if isinstance(item, str) else item for item in objects]
            super().print(*shown, **settings)

    return Plain(file=file, record=record, highlight=False, markup=False, soft_wrap=True)


def _visible_character(character: str) -> str:
    if character in _HARMLESS:
        return character
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return f"⟨U+{code:04X}⟩"
    return character

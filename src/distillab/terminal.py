"""Print to the terminal with control characters made visible and secrets removed.

A title, a name, a path or a row can hold codes that colour, clear or overwrite the terminal.
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
    """Return the text with every invisible or order-changing character replaced by a visible one.

    Line feed, tab and the two joiners stay. C0 controls become control pictures; all other characters
    of the Unicode categories Cc, Cf, Cs, Zl and Zp become `⟨U+…⟩`.

    >>> visible("a\\x1b[31mb\\u202ec")
    'a␛[31mb⟨U+202E⟩c'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_visible_character(character) for character in text)


def plural(count: int, noun: str) -> str:
    """Return a count with its noun.

    >>> plural(1, "row"), plural(2_000, "row")
    ('1 row', '2,000 rows')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def echo(text: str, *, error: bool = False) -> None:
    """Print a line to standard output, or to standard error."""
    print(visible(redacted(text)), file=sys.stderr if error else sys.stdout, flush=error)


def plain_console(file: TextIO | None = None, *, record: bool = False) -> Console:
    """Return a rich console that prints texts without markup, and control characters as visible signs.

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

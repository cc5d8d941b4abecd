"""Make hostile text harmless: show invisible characters, escape Markdown.

jinja2 escapes HTML; this module treats what HTML escaping leaves: characters that reverse, hide or
overwrite text (terminal codes, right-to-left overrides), and the signs that Markdown reads as markup.
"""

from __future__ import annotations

import re

from distillab.terminal import visible

__all__ = [
    "LONGEST_SHOWN",
    "Markdown",
    "markdown_block",
    "markdown_inline",
    "shortened",
    "unbroken",
    "visible",
    "without_blank_runs",
]

_MARKDOWN_SIGNS = re.compile(r"([\\`*_{}\[\]<>#|~&$@]|:(?=//))")
_LINE_START = re.compile(r"^(\s*)([-+](?!\d)|[=>]|\d+(?=[.)](?:\s|$)))")
LONGEST_SHOWN = 2000
_BLANK = re.compile(r"\s+")
_BEFORE_UNIT = re.compile(r"(?<=\d) (?=(?:%|ms|s|min|h|nats|bits|[KMGT]i?B)(?![\w/]))")
_MOST_LINE_ENDS, _MOST_SPACES = 3, 40  # more than two empty lines, or a deep indentation, leave a hole in the page


def shortened(text: str, longest: int = LONGEST_SHOWN) -> str:
    """Return the text, cut at `longest` characters with a note of how many are left out.

    >>> shortened("abcdef", 4)
    'abcd … (2 more characters in results.json)'
    """
    left_out = len(text) - longest
    return text if left_out <= 0 else f"{text[:longest]} … ({left_out} more characters in results.json)"


def without_blank_runs(text: str) -> str:
    """Return the text, each long run of line ends or spaces replaced by a sign with its length.

    >>> without_blank_runs("a\\n\\nb" + 64 * "\\n")
    'a\\n\\nb ⟨64 line ends⟩ '
    """

    def shown(match: re.Match[str]) -> str:
        run, ends = match[0], match[0].count("\n")
        if ends > _MOST_LINE_ENDS:
            return f" ⟨{ends} line ends⟩ "
        return f" ⟨{len(run)} spaces⟩ " if len(run) - ends > _MOST_SPACES else run

    return _BLANK.sub(shown, text)


def unbroken(text: str) -> str:
    """Return the text with a no-break space between a number and its unit, so that no line ends between them.

    >>> unbroken("95 % interval, 12.5 s a run")
    '95\\xa0% interval, 12.5\\xa0s a run'
    """
    return _BEFORE_UNIT.sub("\N{NO-BREAK SPACE}", text)


class Markdown(str):
    """Text that is Markdown already and must not be escaped again."""

    __slots__ = ()


def markdown_inline(text: str) -> Markdown:
    """Return one line of Markdown that reads as the plain text, also inside a table cell.

    >>> markdown_inline("a|b <i>")
    'a\\\\|b \\\\<i\\\\>'
    """
    line = " ".join(visible(text).split())
    line = _MARKDOWN_SIGNS.sub(r"\\\1", line)
    start = _LINE_START.match(line)
    if start is not None:
        # A backslash before a digit is no escape in Markdown; the sign behind the digits takes it.
        cut = start.end() if start.group(2).isdigit() else start.start(2)
        line = f"{line[:cut]}\\{line[cut:]}"
    return Markdown(line)


def markdown_block(text: str) -> Markdown:
    """Return a fenced code block whose fence is longer than any run of backticks in the text.

    >>> print(markdown_block("x"))
    ```text
    x
    ```
    """
    shown = visible(text)
    longest = max((len(run) for run in re.findall(r"`+", shown)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markdown(f"{fence}text\n{shown}\n{fence}")

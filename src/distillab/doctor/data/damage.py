r"""Texts that a conversion damaged: a wrong encoding, characters that were lost, and escapes that were never undone.

Escapes are HTML entities, tags, \n as two characters, and percent signs of URLs. Texts about such things, and code,
hold them rightly. They are passed over by their words, quotation marks and fences.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from html.entities import html5

from distillab.data.examples import Example
from distillab.doctor.checks import from_page
from distillab.doctor.data.words import ENCODINGS, around, not_checked, share
from distillab.records import Finding

_MANY = 0.001
_FEWEST_LOST, _MANY_LOST = 3, 0.02

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_LOST = "question marks where letters were"
_LOST_LETTER = re.compile(r"(?<![\w/=&%.+~-])[A-Za-z]{2,}\?(?:t|s|re|ll|ve|d|m)\b(?![=&/])|\b[a-z]+\?[a-z]+\?[a-z]+\b")
_MANY_ESCAPED, _FEWEST_ESCAPED = 0.01, 3

_ENTITY = re.compile(r"&(?:#\d{2,6}|#[xX][0-9a-fA-F]{2,5}|[a-zA-Z]{2,8}\d{0,2});")
_TAG = re.compile(
    r"</?(?:br|p|b|i|em|strong|u|span|div|a|li|ul|ol|font|sup|sub|h[1-6]|td|tr|table)(?:\s[^<>]*)?/?>", re.I
)
# LaTeX and paths go on in small letters (\nu, \theta, C:\new); a text that was escaped goes on as texts do
_LINE_END = re.compile(r"(?<![\\A-Za-z]:)\\[nrt](?=[\s\\A-Z0-9\-*•\"“(]|[^\x00-\x7f]|$)")
_UNICODE = re.compile(r"\\u[0-9a-fA-F]{4}(?![0-9a-zA-Z])|\\u[0-9a-fA-F]{4}(?=[a-z])|\\x[89a-fA-F][0-9a-fA-F]")
_QUOTES = re.compile(r"\\\"[^\"\\\n]{1,400}\\\"|\w\\'\w")
_PERCENT = re.compile(r"(?<![\w/.:?=&%-])[\w'’-]+(?:%20[\w'’-]+)+")
_FENCED = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`|\$\$?[^$]+\$\$?|https?://\S+", re.S)

# words of a text or its prompt where such signs are meant
_ABOUT = re.compile(
    r"\b(?:html|xml|xhtml|svg|css|json|yaml|jsx|markup|markdown|latex|tex|regex|regular expressions?|unicode|ascii"
    r"|utf-?8|url|uri|escap\w*|encod\w*|decod\w*|entit(?:y|ies)|tags?|code|coding|program\w*|scripts?|functions?|class|strings?"
    r"|newlines?|backslash\w*|python|java|javascript|typescript|php|ruby|perl|rust|golang|c\+\+|c#|bash|shell|sql"
    r"|printf?|web ?pages?|web ?sites?|browser|parser?|parse|syntax)\b",
    re.I,
)
_CODE = re.compile(
    r"<!doctype|<html|<head|<body|<script|<style|<\?xml|\bdef \w+\(|\bimport \w+|#include|\breturn\b.*;|\{\s*\n|=>"
    r"|;\s*\n|\b(?:print|printf|println|echo|split|join|replace)\s*\(",
    re.I,
)
_JSON = "json.loads on the text in quotation marks removes one level of escaping"
# kind -> its pattern, and what to do
_KINDS = {
    "HTML entities": (_ENTITY, "html.unescape(text)"),
    "HTML tags": (_TAG, "strip the tags, and turn <br> and <p> into line breaks"),
    "line breaks or tabs as a backslash and a letter": (
        _LINE_END,
        r"text.replace('\\n', '\n'), or read the file as JSON once more",
    ),
    "characters as \\u and their number": (_UNICODE, _JSON),
    "quotation marks behind a backslash": (_QUOTES, _JSON),
    "spaces as %20": (_PERCENT, "urllib.parse.unquote(text)"),
}
# (text, kind, what was found first) of every kind that a row holds
_Marks = list[tuple[str, str, str]]


def misread(text: str) -> tuple[str, str] | None:
    """(encoding, first characters) of a text that was read in another encoding than its own; None: there are none.

    ftfy judges each line; it must be installed.

    >>> misread("The cafÃ© isnâ€™t open."), misread("Le café n’est pas ouvert.")
    (('windows-1252', 'fÃ©'), None)
    """
    from ftfy import fix_encoding_and_explain
    from ftfy.badness import BADNESS_RE

    if text.isascii():
        return None
    for line in text.splitlines():
        bad = None if line.isascii() else BADNESS_RE.search(line)
        plan = fix_encoding_and_explain(line).explanation if bad is not None else None
        if bad is not None and plan:
            return _encoding(plan[0].action, plan[0].parameter), bad[0]
    return None


def _encoding(action: str, parameter: str) -> str:
    """Return the wrong encoding by ftfy's first step: of the whole line, of pieces, or of single characters."""
    return {"encode": parameter.removeprefix("sloppy-"), "apply": "windows-1252"}.get(action, "latin-1")


def damage_in(text: str, *, encodings: bool = True) -> list[tuple[str, str]]:
    """(kind, what was found first) of every kind of damage in a text.

    Args:
        encodings: look for text that was read in another encoding, too, by ftfy.

    >>> damage_in("The cafÃ© isnâ€™t open."), damage_in("Le café n’est pas ouvert.")
    ([('text that was read as windows-1252', 'fÃ©')], [])
    """
    control, lost = _CONTROL.search(text), _LOST_LETTER.search(text)
    wrong = misread(text) if encodings else None
    found = {
        "" if wrong is None else f"text that was read as {wrong[0]}": None if wrong is None else wrong[1],
        "the replacement character U+FFFD": "\ufffd" if "\ufffd" in text else "锟斤拷" if "锟斤拷" in text else None,
        "control characters": control[0] if control else None,
        "byte-order marks inside": "\ufeff" if "\ufeff" in text else None,
        _LOST: lost[0] if lost else None,
    }
    return [(kind, piece) for kind, piece in found.items() if piece is not None]


def check_damage(examples: Sequence[Example]) -> Finding | None:
    """Count rows with each kind of damage."""
    encodings = not_checked("", ENCODINGS) is None
    rows: list[tuple[Example, _Marks]] = [
        (example, [(text, *found) for text in example.texts for found in damage_in(text, encodings=encodings)])
        for example in examples
    ]
    # a question mark without a blank behind it may be a slip; many of them are not
    lost = sum(any(kind == _LOST for _, kind, _ in marks) for _, marks in rows)
    if lost < max(_FEWEST_LOST, _MANY_LOST * len(examples)):
        rows = [(example, [mark for mark in marks if mark[1] != _LOST]) for example, marks in rows]
    damaged = sum(bool(marks) for _, marks in rows)
    if not damaged:
        return None
    kinds = _kinds(rows)
    return from_page(
        "text-damaged",
        *(f"{share(times, len(examples))} rows hold {kind}" for kind, times, _ in kinds),
        severity="warning" if damaged >= _MANY * len(examples) else "note",
        example=tuple(first for _, _, first in kinds),
    )


def _kinds(rows: Sequence[tuple[Example, _Marks]]) -> list[tuple[str, int, str]]:
    """Return (kind, rows that hold it, the first place) of each, the most frequent first."""
    times: Counter[str] = Counter()
    first: dict[str, str] = {}
    for example, marks in rows:
        times.update({kind: 1 for _, kind, _ in marks})
        for text, kind, piece in marks:
            first.setdefault(kind, f"{example.origin}: {around(text, piece, reach=40)}")
    return [(kind, count, first[kind]) for kind, count in times.most_common()]


def check_escapes(examples: Sequence[Example]) -> Finding | None:
    """Count rows with each kind of escape, those left out that are about code or markup."""
    escaped: list[tuple[Example, _Marks]] = [
        (example, marks)
        for example in examples
        if (marks := [(text, *found) for text in example.texts for found in escapes_in(text)])
    ]
    rows = [(example, marks) for example, marks in escaped if not any(map(_speaks_of_code, example.texts))]
    if not rows:
        return None
    kinds, passed = _kinds(rows), len(escaped) - len(rows)
    return from_page(
        "text-escaped",
        *(f"{share(times, len(examples))} rows hold {kind}" for kind, times, _ in kinds),
        f"{passed:,} further rows are about code or markup, and were not judged" if passed else None,
        severity="warning" if len(rows) >= max(_FEWEST_ESCAPED, _MANY_ESCAPED * len(examples)) else "note",
        example=tuple(first for _, _, first in kinds),
        fix=tuple(dict.fromkeys(f"{kind}: {_KINDS[kind][1]}" for kind, _, _ in kinds)),
    )


def escapes_in(text: str) -> list[tuple[str, str]]:
    r"""(kind, first found) of every kind of escape in a text, outside of code in fences, formulas and addresses.

    >>> escapes_in("Tom &amp; Jerry said:\\nHello, we&#39;re here")[0]
    ('HTML entities', '&amp;')
    >>> escapes_in(r"the angle \theta, the mean \nu and C:\new"), escapes_in("R&D; AT&T; a < b > c")
    ([], [])
    """
    if not any(sign in text for sign in "&<\\%"):
        return []
    bare = _FENCED.sub(" ", text)
    kinds = {kind: pattern for kind, (pattern, _) in _KINDS.items()}
    if "\n" in bare.strip():  # its line breaks are whole
        kinds = {kind: pattern for kind, pattern in kinds.items() if pattern is not _LINE_END}
    pieces = ((kind, (match[0] for match in pattern.finditer(bare))) for kind, pattern in kinds.items())
    return [(kind, piece) for kind, found in pieces if (piece := next(filter(_is_meant, found), None)) is not None]


def _is_meant(piece: str) -> bool:
    """Whether it is no letter behind an ampersand: of names only those that HTML has."""
    return not piece.startswith("&") or piece.startswith("&#") or piece[1:] in html5


def _speaks_of_code(text: str) -> bool:
    return bool(_ABOUT.search(text) or _CODE.search(text) or "```" in text)

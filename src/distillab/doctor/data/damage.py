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
from distillab.doctor.data.words import ENCODINGS, not_checked, share
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
_KINDS = {
    "HTML entities": "html.unescape(text)",
    "HTML tags": "strip the tags, and turn <br> and <p> into line breaks",
    "line breaks or tabs as a backslash and a letter": r"text.replace('\\n', '\n'), or read the file as JSON once more",
    "characters as \\u and their number": "json.loads on the text in quotation marks removes one level of escaping",
    "quotation marks behind a backslash": "json.loads on the text in quotation marks removes one level of escaping",
    "spaces as %20": "urllib.parse.unquote(text)",
}


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
    kinds: Counter[str] = Counter()
    first: dict[str, str] = {}
    rows: list[set[str]] = []
    encodings = not_checked("", ENCODINGS) is None
    for example in examples:
        here = [(text, *found) for text in example.texts for found in damage_in(text, encodings=encodings)]
        for text, kind, piece in here:
            first.setdefault(kind, _around(example, text, piece))
        rows += [{kind for _, kind, _ in here}] if here else []
    # a question mark without a blank behind it may be a slip; many of them are not
    if sum(_LOST in one for one in rows) < max(_FEWEST_LOST, _MANY_LOST * len(examples)):
        rows = [one - {_LOST} for one in rows if one != {_LOST}]
    for one in rows:
        kinds.update(one)
    if not rows:
        return None
    return from_page(
        "text-damaged",
        *tuple(f"{share(times, len(examples))} rows hold {kind}" for kind, times in kinds.most_common()),
        severity="warning" if len(rows) >= _MANY * len(examples) else "note",
        example=tuple(first[kind] for kind, _ in kinds.most_common()),
    )


def _around(example: Example, text: str, found: str) -> str:
    at = text.index(found)
    return f"{example.origin}: {text[max(0, at - 30) : at + 30]!r}"


def check_escapes(examples: Sequence[Example]) -> Finding | None:
    """Count rows with each kind of escape, those left out that are about code or markup."""
    kinds: Counter[str] = Counter()
    first: dict[str, str] = {}
    passed = rows = 0
    for example in examples:
        escapes = [(text, kind, found) for text in example.texts for kind, found in escapes_in(text)]
        if not escapes:
            continue
        if any(_speaks_of_code(text) for text in example.texts):
            passed += 1
            continue
        rows += 1
        kinds.update({kind for _, kind, _ in escapes})
        for text, kind, found in escapes:
            first.setdefault(kind, _around_escape(example, text, found))
    if not rows:
        return None
    passed_over = (f"{passed:,} further rows are about code or markup, and were not judged",) if passed else ()
    return from_page(
        "text-escaped",
        *(f"{share(times, len(examples))} rows hold {kind}" for kind, times in kinds.most_common()),
        *passed_over,
        severity="warning" if rows >= max(_FEWEST_ESCAPED, _MANY_ESCAPED * len(examples)) else "note",
        example=tuple(first[kind] for kind, _ in kinds.most_common()),
        fix=tuple(dict.fromkeys(f"{kind}: {_KINDS[kind]}" for kind, _ in kinds.most_common())),
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
    entity = next((match[0] for match in _ENTITY.finditer(bare) if _is_entity(match[0])), None)
    tags = [match[0] for match in _TAG.finditer(bare)]
    line_end = None if "\n" in bare.strip() else _LINE_END.search(bare)
    found = {
        "HTML entities": entity,
        "HTML tags": tags[0] if tags else None,
        "line breaks or tabs as a backslash and a letter": line_end[0] if line_end else None,
    }
    for kind, pattern in (
        ("characters as \\u and their number", _UNICODE),
        ("quotation marks behind a backslash", _QUOTES),
        ("spaces as %20", _PERCENT),
    ):
        match = pattern.search(bare)
        found[kind] = match[0] if match else None
    return [(kind, piece) for kind, piece in found.items() if piece is not None]


def _is_entity(piece: str) -> bool:
    return piece.startswith("&#") or piece[1:] in html5


def _speaks_of_code(text: str) -> bool:
    return bool(_ABOUT.search(text) or _CODE.search(text) or "```" in text)


def _around_escape(example: Example, text: str, found: str) -> str:
    at = max(0, text.find(found))
    return f"{example.origin}: {text[max(0, at - 30) : at + 40]!r}"

"""What all rows share around the place where scoring begins: the wording of prompts that no known template has."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import takewhile

import numpy as np

from distillab.doctor.batch.markers import ReadRow
from distillab.doctor.batch.show import row_example, token_names
from distillab.doctor.batch.tokens import TokenFacts
from distillab.doctor.page import from_page
from distillab.records import Finding

_FEWEST, _ALL = 6, 0.9
_FAR = 8
# the frame of a prompt closes with one of these
_FRAME = re.compile(rb"\n[^\n]{1,40}?[:\]>]")
_LABEL = re.compile(r"\W*\w+( \w+)?\W*[:\]>=]\s*")
_MIXED = 0.2
_CLOSES = (":", "]", ">", "\n", "=")


def shared_frames(rows: Sequence[ReadRow], facts: TokenFacts) -> Finding | None:
    """Compare where scoring begins with the tokens that nearly all rows have there.

    `Answer:` before the first scored token in all rows is the end of their prompts. Some tokens further away, always as
    many, it shows a mask that is too long; among the first scored tokens one that is too short.
    """
    judged = [row for row in rows if row.family is None and _begins(row) is not None]
    if len(judged) < _FEWEST:
        return None
    return _too_long(judged, facts) or _too_short(judged, facts) or _at_odds(judged, facts)


def _begins(row: ReadRow) -> int | None:
    """Where scoring begins, with _FAR tokens of text to either side; None: not so."""
    places = row.placed.scored_places
    inside = len(places) and row.placed.start + _FAR < places[0] and places[0] + _FAR < row.placed.stop
    return int(places[0]) if inside else None


def _common(rows: Sequence[ReadRow], distance: int) -> int | None:
    """The token that nearly all rows have at this distance from the first scored one; None: they differ."""
    tokens = [int(row.placed.ids[begin + distance]) for row in rows if (begin := _begins(row)) is not None]
    token, count = Counter(tokens).most_common(1)[0]
    return token if count >= _ALL * len(tokens) else None


def _says(tokens: Sequence[int], facts: TokenFacts) -> str:
    return facts.text(np.array(tokens, dtype=np.int64))


def _too_long(rows: Sequence[ReadRow], facts: TokenFacts) -> Finding | None:
    before = [_common(rows, -distance) for distance in range(1, _FAR + 1)]
    missing = next((number for number, token in enumerate(before) if token is not None), 0)
    frame = [token for token in before[missing : missing + 3] if token is not None][::-1]
    text = _says(frame, facts)
    if not missing or len(frame) < 2 or not text.rstrip(" ").endswith(_CLOSES):
        return None
    return from_page(
        "answer-start-not-scored",
        f"the prompts of {len(rows):,} rows end with {text!r}; then come {missing} unscored tokens",
        case="tokens",
        example=row_example(rows[0].placed, facts),
    )


def _at_odds(rows: Sequence[ReadRow], facts: TokenFacts) -> Finding | None:
    """A wording that ends a line of every row once, and scoring begins before it in some rows, and behind in others."""
    texts = [row.text for row in rows]
    for frame in sorted(set(_FRAME.findall(texts[0])), key=texts[0].find):
        if sum(text.count(frame) == 1 for text in texts) < _ALL * len(texts):
            continue
        early = late = 0
        for row in rows:
            end = row.text.find(frame) + len(frame)
            begin = _begins(row)
            if begin is None or end < len(frame):
                continue
            first = int(row.ends[begin - row.placed.start - 1])
            late, early = late + (first > end + 1), early + (first < end - 1)
        if min(early, late) >= _MIXED * len(rows):
            return from_page(
                "answer-start-not-scored",
                f"{len(rows):,} rows contain {frame.decode('utf-8', 'replace')!r}: scoring begins before it in "
                f"{early:,}, and behind it in {late:,}; the lengths may be those of other prompts",
                case="tokens",
                example=row_example(rows[0].placed, facts),
            )
    return None


def _too_short(rows: Sequence[ReadRow], facts: TokenFacts) -> Finding | None:
    scored = [_common(rows, distance) for distance in range(_FAR)]
    count = next((number for number, token in enumerate(scored) if token is None), _FAR)
    frame = [token for token in scored[:count] if token is not None]
    before = list(takewhile(lambda token: token is not None, (_common(rows, -distance) for distance in range(1, _FAR))))
    line = _says([token for token in (*before[::-1], *frame) if token is not None], facts).rsplit("\n", 1)[-1]
    # a label of a word or two; answers may begin alike, in a sentence
    if not _says(frame, facts).strip() or not _LABEL.fullmatch(line):
        return None
    framed = bool(before)
    row = rows[0].placed
    return from_page(
        "prompt-end-scored",
        f"the first {count} scored tokens are the same in {len(rows):,} rows",
        "the token before them is too: it is one frame" if framed else "the answers may begin so: then it is right",
        severity="warning" if framed and count < _FAR else "note",
        example=(f"{row.row.origin}: scored first: {'·'.join(token_names(np.array(frame, dtype=np.int64), facts))}",),
    )

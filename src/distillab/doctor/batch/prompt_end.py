"""Do masks end where the prompt ends? Scored headers of answers, last tokens of prompts that are scored, and frames.

A frame is what all rows share around the place where scoring begins: the wording of prompts that no known template has.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from distillab.doctor.batch.markers import Family, ReadRow
from distillab.doctor.batch.show import row_example, row_line, token_names
from distillab.doctor.batch.tokens import TokenFacts
from distillab.doctor.checks import from_page
from distillab.records import Finding, Severity

_FEWEST = 4
_MOST, _NEARLY_ALL = 0.8, 0.9
# a prompt closes with one of these, and an answer does not begin with it
_CLOSING = frozenset(".?!:;,)]…。：？！；，）】")
_FEWEST_FRAMED, _ALL = 6, 0.9
_FAR = 8
# the frame of a prompt closes with one of these
_FRAME = re.compile(rb"\n[^\n]{1,40}?[:\]>]")
_LABEL = re.compile(r"\W*\w+( \w+)?\W*[:\]>=]\s*")
_MIXED = 0.2
_CLOSES = (":", "]", ">", "\n", "=")


@dataclass(frozen=True, eq=False)
class _Border:
    """Where one answer begins: scored tokens just before it.

    Attributes:
        marker: tokens of the marker of the answer, without the blanks behind it.
        scored: tokens of the prompt, the blanks among them, that are scored up to the answer.
        blanks: how many of these are blanks behind the marker.
    """

    row: ReadRow
    marker: int
    scored: int
    blanks: int
    first: int

    @property
    def of_marker(self) -> int:
        return self.scored - self.blanks


def scored_prompt_ends(rows: Sequence[ReadRow], facts: TokenFacts) -> Finding | None:
    """The mask ends before the prompt does: by the markers of templates, or by what an answer never begins with."""
    borders = [border for row in rows if row.family is not None for border in _borders(row, facts)]
    if borders:
        return _by_markers(borders, facts)
    return _by_first_tokens([row for row in rows if row.family is None], facts)


def _borders(row: ReadRow, facts: TokenFacts) -> list[_Border]:
    placed, family = row.placed, row.family
    if family is None or _writes_header(family, facts):
        return []
    found = []
    for match in family.answer.finditer(row.text):
        behind = len(row.text) - len(row.text[match.end() :].lstrip())
        # a marker's first token may hold the blank before it, and its last the one behind
        marker = np.setdiff1d(
            row.tokens_of(match.start(), match.end()), row.tokens_of(behind, behind + 1), assume_unique=True
        )
        blanks = np.setdiff1d(row.tokens_within(match.end(), behind), marker, assume_unique=True)
        if not len(marker):
            continue
        first = int(max([*marker, *blanks])) + 1
        if first >= placed.stop or not placed.scored[first]:
            continue
        begin = first
        while begin - 1 > placed.start and placed.scored[begin - 1]:
            begin -= 1
        # blanks alone before a marker count for nothing
        while begin < marker[0] and not facts.meaning(int(placed.ids[begin])).data.strip():
            begin += 1
        found.append(_Border(row, len(marker), first - begin, min(first - begin, len(blanks)), first))
    return found


def _writes_header(family: Family, facts: TokenFacts) -> bool:
    """Whether the model has to write the answer's marker itself: its template never ends a prompt with one."""
    source = facts.template
    closes_the_question = family.answer.pattern.startswith(rb"\[/")
    return bool(source) and "add_generation_prompt" not in source and not closes_the_question


def _by_markers(borders: Sequence[_Border], facts: TokenFacts) -> Finding | None:
    judged = len(borders)
    markers = [border for border in borders if border.of_marker > 0]
    blank = [border for border in borders if border.scored > 0 and border.of_marker == 0]
    if len(markers) >= max(1, _MOST * judged):
        header = [border for border in markers if 2 * border.of_marker >= border.marker]
        beyond = [border for border in markers if border.of_marker > border.marker]
        if len(header) > len(markers) / 2 and len(beyond) <= len(markers) / 2:
            return _header(header, judged, facts)
        return _prompt_end(
            [(border.row, border.first, border.scored) for border in markers],
            judged,
            facts,
            "warning",
            f"by the markers of the {markers[0].row.family_name} template",
        )
    if len(blank) >= max(_FEWEST, _NEARLY_ALL * judged):
        chosen = [(border.row, border.first, border.scored) for border in blank]
        return _prompt_end(chosen, judged, facts, "note", "it is the white space after the answer's marker")
    return None


def _by_first_tokens(rows: Sequence[ReadRow], facts: TokenFacts) -> Finding | None:
    closing: list[tuple[ReadRow, int, int]] = []
    blank: list[tuple[ReadRow, int, int]] = []
    judged = 0
    for row in rows:
        placed, places = row.placed, row.placed.scored_places
        if len(places) < 2 or places[0] <= placed.start + 1 or places[1] != places[0] + 1:
            continue
        judged += 1
        before, first, after = (
            text.decode("utf-8", "replace") for text in facts.data(placed.ids[places[0] - 1 : places[0] + 2])
        )
        ends_a_word = before[-1:].isalnum() and not first[:1].isspace()
        if ends_a_word and first.strip() and set(first.strip()) <= _CLOSING and _says(after):
            closing.append((row, int(places[0]) + 1, 1))
        elif "\n" in first and not first.strip():
            blank.append((row, int(places[0]) + 1, 1))
    if len(closing) >= max(_FEWEST, _MOST * judged):
        fact = "it is punctuation that ends a sentence: prompts end with it, answers do not begin with it"
        return _prompt_end(closing, judged, facts, "warning", fact)
    if len(blank) >= max(_FEWEST, _NEARLY_ALL * judged):
        return _prompt_end(blank, judged, facts, "note", "it is a line break; in some data the answers begin with one")
    return None


def _says(text: str) -> bool:
    """A word, or the blank before one: not further punctuation, as behind a list's or a smiley's first sign."""
    return not text.strip() or text.strip()[:1].isalnum() or text[:1].isspace()


def _header(borders: Sequence[_Border], judged: int, facts: TokenFacts) -> Finding:
    border = borders[0]
    tokens = border.row.placed.ids[border.first - border.scored : border.first]
    share = np.mean([border.scored / int(border.row.placed.scored.sum()) for border in borders])
    return from_page(
        "answer-header-scored",
        f"{len(borders):,} of {judged:,} answers, by the markers of the {border.row.family_name} template",
        f"scored before the answer: {'·'.join(token_names(tokens, facts))}; {share:.1%} of a row's scored tokens",
        example=(f"{border.row.placed.row.origin}: {row_line(border.row.placed, facts)}",),
    )


def _prompt_end(
    hit: Sequence[tuple[ReadRow, int, int]], judged: int, facts: TokenFacts, severity: Severity, fact: str
) -> Finding:
    counts = sorted({count for _, _, count in hit})
    row, first, count = hit[0]
    tokens = row.placed.ids[first - count : first]
    return from_page(
        "prompt-end-scored",
        f"{len(hit):,} of {judged:,} answers: {counts[0]}{f' to {counts[-1]}' if len(counts) > 1 else ''} tokens",
        fact,
        severity=severity,
        example=(
            f"{row.placed.row.origin}: scored before the answer: {'·'.join(token_names(tokens, facts))}",
            f"{row.placed.row.origin}: {row_line(row.placed, facts)}",
        ),
    )


def shared_frames(rows: Sequence[ReadRow], facts: TokenFacts) -> Finding | None:
    """Compare where scoring begins with the tokens that nearly all rows have there.

    `Answer:` before the first scored token in all rows is the end of their prompts. Some tokens further away, always as
    many, it shows a mask that is too long; among the first scored tokens one that is too short.
    """
    judged = [row for row in rows if row.family is None and _begins(row) is not None]
    if len(judged) < _FEWEST_FRAMED:
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


def _text(tokens: Sequence[int], facts: TokenFacts) -> str:
    return facts.text(np.array(tokens, dtype=np.int64))


def _too_long(rows: Sequence[ReadRow], facts: TokenFacts) -> Finding | None:
    before = [_common(rows, -distance) for distance in range(1, _FAR + 1)]
    missing = next((number for number, token in enumerate(before) if token is not None), 0)
    frame = [token for token in before[missing : missing + 3] if token is not None][::-1]
    text = _text(frame, facts)
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
    line = _text([token for token in (*before[::-1], *frame) if token is not None], facts).rsplit("\n", 1)[-1]
    # a label of a word or two; answers may begin alike, in a sentence
    if not _text(frame, facts).strip() or not _LABEL.fullmatch(line):
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

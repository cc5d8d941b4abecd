"""Answers that were cut, and got an end token all the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from distillab.doctor.batch.label_offset import PlacedRow
from distillab.doctor.batch.show import row_line
from distillab.doctor.batch.tokens import TokenFacts
from distillab.doctor.page import from_page
from distillab.records import Finding

_FEWEST_FULL = 4
_FEWEST_SHORTER = 8
# lengths spread; where rows are cut, the longest length stands far above every other one
_PILE = 4
_USUAL = 0.1
_UNUSUAL = 0.5
_SENTENCE = frozenset(".!?…。！？\"')]}”’")


def cut_and_ended(rows: Sequence[PlacedRow], facts: TokenFacts) -> Finding | None:
    """Rows of exactly the longest length whose text stops otherwise than the shorter ones do.

    Two signs must come together, since each has another reading alone: many rows of one length (prompts that were cut
    to fit their answer), and ends without a full stop (answers of a word or a number).

    Args:
        rows: whose answer has an end token that is scored.
    """
    rows = [row for row in rows if not row.whole]
    lengths = Counter(row.stop - row.start for row in rows)
    longest = max(lengths, default=0)
    count = lengths.pop(longest, 0)
    full = [row for row in rows if row.stop - row.start == longest]
    shorter = [row for row in rows if row.stop - row.start < longest]
    if count < _FEWEST_FULL or len(shorter) < _FEWEST_SHORTER or count < _PILE * max(lengths.values()):
        return None
    ends = Counter(_last_sign(row, facts) for row in shorter)
    usual = {sign for sign, times in ends.items() if times >= _USUAL * len(shorter)}
    cut = [row for row in full if _last_sign(row, facts) not in usual]
    if len(cut) < max(_FEWEST_FULL, _UNUSUAL * count):
        return None
    return from_page(
        "answers-truncated",
        f"{count:,} of {len(rows):,} rows have exactly {longest:,} tokens, the maximum length; any other length "
        f"occurs at most {max(lengths.values()):,} times",
        f"before EOS, {len(cut):,} of them end with {_listed({_last_sign(row, facts) for row in cut})}; "
        f"the {len(shorter):,} shorter rows end with {_listed(usual)}",
        case="ended",
        example=(f"{cut[0].row.origin}: {row_line(cut[0], facts)}",),
    )


def _last_sign(row: PlacedRow, facts: TokenFacts) -> str:
    """What kind of sign stands last before the end token."""
    stop = row.stop
    while stop > row.start and int(row.ids[stop - 1]) in facts.ends:
        stop -= 1
    text = facts.text(row.ids[max(row.start, stop - 8) : stop]).rstrip()
    if not text:
        return "nothing"
    last = text[-1]
    if last in _SENTENCE:
        return "the end of a sentence"
    return "a digit" if last.isdigit() else "a letter" if last.isalpha() else repr(last)


def _listed(signs: set[str]) -> str:
    shown = sorted(signs)
    return ", ".join(shown[:4]) + (", …" if len(shown) > 4 else "")

"""Do the answers end, and is their end learned?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from distillab.doctor.batch.label_offset import PlacedRow
from distillab.doctor.batch.show import row_example
from distillab.doctor.batch.tokens import END_TEXTS, TokenFacts
from distillab.doctor.checks import Checked, Scope, Skipped, check, from_page
from distillab.records import Finding, Severity

# learned: an end token is the last scored one; hidden: an end token follows that is not scored; padded: so it does, but
# it may be padding; cut: the row is full; open: the text ends without an end token
End = Literal["learned", "hidden", "padded", "cut", "open"]
_ANSWER_TOKENS = 4
_SURE = 4  # rows
_PUNCTUATION = frozenset(".!?,;:\"')]}…。！？")

_FEWEST_FULL = 4
_FEWEST_SHORTER = 8
# lengths spread; where rows are cut, the longest length stands far above every other one
_PILE = 4
_USUAL = 0.1
_UNUSUAL = 0.5
_SENTENCE = frozenset(".!?…。！？\"')]}”’")


@check("ends of answers")
def check_ends(rows: Sequence[PlacedRow], facts: TokenFacts) -> Checked:
    """Look at the last scored token of every row, and at what follows it.

    Of answers the end is learned; a text may go on, and a prompt has none.
    """
    judged = [row for row in rows if row.scored.any()]
    yield Scope(f"{len(judged):,} rows with scored tokens")
    if not judged:
        raise Skipped("no row has labels that are its own tokens")
    if not facts.ends:
        raise Skipped("the tokenizer has no EOS")
    ends = [(row, _end(row, facts)) for row in judged]
    if _own_end(judged, facts):
        yield Scope(f"{len(judged):,} rows with scored tokens; all end in the same token, which counts as their EOS")
        return
    yield _never_learned(ends, facts) or _some_hidden(ends, facts)
    yield _cut(ends, facts) or cut_and_ended([row for row, end in ends if end == "learned"], facts)


def _end(row: PlacedRow, facts: TokenFacts) -> End:
    last = int(row.scored_places[-1])
    if int(row.targets[last]) in facts.ends or _spells_end(row, last, facts):
        return "learned"
    # a template may put a blank between the answer and its end
    for behind in range(last + 1, min(last + 3, len(row.ids))):
        if int(row.ids[behind]) in facts.ends:
            if int(row.ids[behind]) == facts.pad != facts.eos:
                break
            hidden = row.attention is not None and int(row.attention[behind]) == 0
            alone = behind < row.stop and not hidden and (row.attention is not None or not _is_padding_id(row, behind))
            return "hidden" if alone else "padded"
        if facts.meaning(int(row.ids[behind])).data.strip():
            break
    return "cut" if row.row.fills and row.start == 0 and last == len(row.ids) - 1 else "open"


def _spells_end(row: PlacedRow, last: int, facts: TokenFacts) -> bool:
    """Whether the row ends in an end marker that is written in pieces."""
    return facts.text(row.ids[max(0, last - 15) : last + 1]).rstrip().encode().endswith(END_TEXTS)


def _is_padding_id(row: PlacedRow, place: int) -> bool:
    """Whether an end token, without an attention mask, begins a run that fills the row: then it may all be padding."""
    return place + 1 < len(row.ids) and bool((row.ids[place:] == row.ids[place]).all())


def _own_end(rows: Sequence[PlacedRow], facts: TokenFacts) -> bool:
    """Whether all rows end in one token of the user's own choice, such as ### or a line end."""
    last = Counter(int(row.targets[row.scored_places[-1]]) for row in rows)
    token, count = last.most_common(1)[0]
    text = facts.meaning(token).data.decode("utf-8", "replace").strip()
    odd = not text or not (text[-1].isalnum() or text[-1] in _PUNCTUATION)
    return token not in facts.ends and len(rows) >= 4 and count >= 0.9 * len(rows) and odd


def _never_learned(ends: Sequence[tuple[PlacedRow, End]], facts: TokenFacts) -> Finding | None:
    rows, learns = [row for row, _ in ends], facts.told.learns
    if (
        learns == "prompts"
        or any(end == "learned" for _, end in ends)
        or any(int(token) in facts.ends for row in rows for token in row.targets[row.scored])
    ):
        return None
    hidden = [row for row, end in ends if end == "hidden"]
    padded = [row for row, end in ends if end == "padded"]
    opened = [row for row, end in ends if end == "open"]
    mean = sum(int(row.scored.sum()) for row in rows) / len(rows)
    masked = sum(int(row.scored_places[0]) > row.start + 1 for row in rows) > len(rows) / 2
    # answers that nothing ever ends are learned so wherever the end went; a classifier's of a token or two need none
    answers = learns != "text" and (masked or learns == "answers") and mean >= _ANSWER_TOKENS
    # what fills a batch has no padding behind it: if it ends without EOS, so do the others
    longest = {len(row.ids) for row, end in ends if end == "cut"}
    if hidden or (padded and len(longest) < 2):
        hit = [*hidden, *padded]
        severity: Severity = "error" if answers and len(hit) >= 2 else "warning"
        token = next(int(t) for t in hit[0].ids[hit[0].scored_places[-1] + 1 :] if int(t) in facts.ends)
        facts_seen = [
            f"0 of {len(rows):,} rows have a scored EOS; on average {mean:.1f} scored tokens per row",
            f"in {len(hit):,} rows {facts.name(token)} follows, and is not scored",
        ]
        if padded:
            facts_seen.append(f"in {len(padded):,} of them this may be padding: padding and EOS are the same token")
        return from_page(
            "eos-not-scored", *facts_seen, case="never", severity=severity, example=row_example(hit[0], facts)
        )
    opened = opened or padded
    if not opened or (len(opened) < 2 and len(rows) > 1):
        return None
    return from_page(
        "eos-missing",
        f"0 of {len(rows):,} rows have EOS after the scored text",
        severity="error" if answers and len(opened) >= _SURE else "warning",
        example=row_example(opened[0], facts),
    )


def _some_hidden(ends: Sequence[tuple[PlacedRow, End]], facts: TokenFacts) -> Finding | None:
    hidden = [row for row, end in ends if end == "hidden"]
    if len(hidden) < max(2, 0.1 * len(ends)):
        return None
    return from_page(
        "eos-not-scored",
        f"{len(hidden):,} of {len(ends):,} rows have EOS after the answer, and it is not scored",
        case="some",
        example=row_example(hidden[0], facts),
    )


def _cut(ends: Sequence[tuple[PlacedRow, End]], facts: TokenFacts) -> Finding | None:
    cut = [row for row, end in ends if end == "cut"]
    learned = sum(end == "learned" for _, end in ends)
    # chunks of plain text are cut everywhere, on purpose
    answers = [row for row in cut if not row.whole]
    if not answers or (not learned and len(cut) < len(ends)):
        return None
    return from_page(
        "answers-truncated",
        f"{len(answers):,} of {len(ends):,} rows are full ({len(answers[0].ids):,} tokens) and end without an end "
        "token",
        case="open",
        example=row_example(answers[0], facts),
    )


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
        example=row_example(cut[0], facts),
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

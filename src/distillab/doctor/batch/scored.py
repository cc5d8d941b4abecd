"""What is scored: padding, prompts, everything, the wrong half, or nothing at all."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from distillab.doctor.batch.label_offset import PlacedRow
from distillab.doctor.batch.markers import ANSWER, PROMPT, ReadRow
from distillab.doctor.batch.prompt_end import scored_prompt_ends, shared_frames
from distillab.doctor.batch.show import row_example
from distillab.doctor.batch.tokens import TokenFacts
from distillab.doctor.checks import Checked, Scope, Skipped, check, from_page
from distillab.records import Finding, Severity

_LEAST_INVERTED = 0.25
_IN_WORDS = 0.15
_FEWEST_IN_WORDS = 3
_FEWEST_LATE = 4
_FEWEST_OF_A_TURN, _WHOLE_TURN = 6, 0.9
_LETTER = re.compile(rb"[A-Za-z]")


@check("scored tokens")
def check_scored(rows: Sequence[ReadRow], facts: TokenFacts) -> Checked:
    """Look at which tokens are scored."""
    scored = sum(int(row.placed.scored.sum()) for row in rows)
    text = sum(row.placed.stop - row.placed.start for row in rows)
    yield Scope(f"{len(rows):,} rows, {scored:,} scored of {text:,} tokens of text")
    if not rows:
        raise Skipped("no row has labels that are its own tokens")
    yield _nothing(rows, facts)
    yield _padding(rows, facts)
    inverted = _inverted(rows, facts)
    if inverted is not None:
        yield inverted
        return
    prompts = _prompts(rows, facts)
    whole = facts.told.learns in ("text", "prompts") or prompts is not None
    late = _ends_alone(rows, facts) or _late(rows, facts) or _in_words(rows, facts)
    early = None if whole else scored_prompt_ends(rows, facts)
    yield from (prompts, late, early)
    yield None if whole or late or early else shared_frames(rows, facts)


def scored_padding(placed: PlacedRow, facts: TokenFacts) -> NDArray[np.int64]:
    """Scored positions in the padding; an end token as the label of the first padding is the answer's own end."""
    at = np.flatnonzero(placed.scored & placed.padding)
    own_end = len(at) > 0 and at[0] == placed.stop and int(placed.targets[at[0]]) in facts.ends
    return at[1:] if own_end else at


def _nothing(rows: Sequence[ReadRow], facts: TokenFacts) -> Finding | None:
    empty = [row.placed for row in rows if not row.placed.scored.any()]
    if not empty:
        return None
    every = len(empty) == len(rows)
    return from_page(
        "all-masked-rows",
        f"{len(empty):,} of {len(rows):,} rows have no scored label",
        case="all" if every else "some",
        example=row_example(empty[0], facts),
    )


def _padding(rows: Sequence[ReadRow], facts: TokenFacts) -> Finding | None:
    hit = [(row.placed, scored_padding(row.placed, facts)) for row in rows]
    hit = [(placed, at) for placed, at in hit if len(at)]
    if not hit:
        return None
    count = sum(len(at) for _, at in hit)
    scored = sum(int(row.placed.scored.sum()) for row in rows)
    masked = sum(int((placed.attention[at] == 0).sum()) for placed, at in hit if placed.attention is not None)
    # one end token more than needed may be meant, and a text may end in what the tokenizer does not know;
    # a longer stretch of end tokens, or what the attention mask hides, is padding
    unknown = [placed for placed, at in hit if int(placed.ids[at[-1]]) == facts.unk != facts.pad]
    guessed = bool(unknown) and (len(rows) < 2 or len(hit) < 0.5 * len(rows))
    certain = masked > 0 or (max(len(at) for _, at in hit) >= 3 and not guessed)
    placed = max(hit, key=lambda pair: len(pair[1]))[0]
    return from_page(
        "padding-in-loss",
        f"{len(hit):,} of {len(rows):,} rows",
        f"{count:,} of {scored:,} scored tokens are padding ({count / scored:.1%})",
        severity="error" if certain else "warning",
        example=row_example(placed, facts),
    )


def _inverted(rows: Sequence[ReadRow], facts: TokenFacts) -> Finding | None:
    learns = facts.told.learns
    judged = [row for row in rows if row.placed.scored.any()]
    if not judged or learns in ("text", "prompts"):
        return None
    wrong = [row for row in judged if _is_inverted(row)]
    if len(wrong) < max(1, 0.5 * len(judged)):
        return None
    placed = wrong[0].placed
    return from_page(
        "mask-inverted",
        f"{len(wrong):,} of {len(judged):,} rows with scored tokens",
        severity="error" if learns == "answers" or len(wrong) > 1 else "warning",
        example=row_example(placed, facts),
    )


def _is_inverted(row: ReadRow) -> bool:
    placed = row.placed
    if row.family is not None:
        prompt, answer = placed.scored[row.parts == PROMPT], placed.scored[row.parts == ANSWER]
        return bool(len(answer)) and bool(len(prompt)) and prompt.mean() >= 0.5 and answer.mean() <= 0.1
    # without markers: one scored stretch from the beginning, then a long one that is not, up to the end
    text = placed.scored[placed.start + 1 : placed.stop]
    count = int(text.sum())
    return bool(len(text)) and bool(text[:count].all()) and len(text) - count >= max(4, _LEAST_INVERTED * len(text))


def _prompts(rows: Sequence[ReadRow], facts: TokenFacts) -> Finding | None:
    learns = facts.told.learns
    if learns in ("text", "prompts"):
        return None
    judged = [row for row in rows if row.placed.scored.any()]
    known = [row for row in judged if (row.parts == PROMPT).any()]
    leaking = [row for row in known if row.placed.scored[row.parts == PROMPT].mean() >= 0.5]
    turns = [(row, marker) for row in known if (marker := _scored_turn(row)) is not None]
    whole = [row for row in judged if row.family is None and row.placed.whole]
    masking = [row for row in judged if not row.placed.whole]
    severity: Severity
    if leaking:
        severity, hit = "error" if learns == "answers" else "warning", leaking
        count = sum(int(row.placed.scored[row.parts == PROMPT].sum()) for row in leaking)
        fact = (
            f"{count:,} scored tokens stand before the answers, by the markers of the {leaking[0].family_name} template"
        )
    elif len(turns) >= max(2, 0.5 * len(known)):
        severity, hit = "error" if learns == "answers" else "warning", [row for row, _ in turns]
        roles = ", ".join(sorted({marker for _, marker in turns}))
        fact = f"turns that are given to the student, and nearly all of whose tokens are scored, begin with {roles}"
    elif whole and (learns == "answers" or (masking and len(whole) >= 0.1 * len(judged))):
        severity, hit = "error" if learns == "answers" and not masking else "warning", whole
        fact = "every token of these rows is scored" + (", while others have an unscored beginning" if masking else "")
    elif whole and not masking:
        severity, hit = "note", whole
        fact = "every token of every row is scored; whether they contain prompts is not known"
    else:
        return None
    scored = sum(int(row.placed.scored.sum()) for row in judged)
    placed = hit[0].placed
    return from_page(
        "prompt-in-loss",
        f"{len(hit):,} of {len(judged):,} rows",
        fact,
        f"{scored:,} scored tokens in all",
        case="prompts" if severity != "note" else "everything",
        severity=severity,
        example=row_example(placed, facts),
    )


def _scored_turn(row: ReadRow) -> str | None:
    """The marker of the first turn that is given and is scored nearly whole: a system's, a user's or a tool's."""
    for marker, tokens in row.asking_turns:
        if len(tokens) >= _FEWEST_OF_A_TURN and row.placed.scored[tokens].mean() >= _WHOLE_TURN:
            return marker
    return None


def _ends_alone(rows: Sequence[ReadRow], facts: TokenFacts) -> Finding | None:
    """Rows in which nothing but EOS is scored."""
    judged = [row.placed for row in rows if row.placed.scored.any()]
    hit = [placed for placed in judged if set(placed.targets[placed.scored].tolist()) <= facts.ends]
    if len(hit) < max(2, 0.9 * len(judged)):
        return None
    return from_page(
        "answer-start-not-scored",
        f"in {len(hit):,} of {len(judged):,} rows EOS is the only scored token",
        case="tokens",
        example=row_example(hit[0], facts),
    )


def _late(rows: Sequence[ReadRow], facts: TokenFacts) -> Finding | None:
    """Answers whose first tokens are not scored, in nearly all rows."""
    late: list[tuple[ReadRow, int, int]] = []
    answers = 0
    for row in rows:
        places = np.flatnonzero(row.parts == ANSWER)
        for stretch in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1):
            if not len(stretch) or not row.placed.scored[stretch].any():
                continue
            answers += 1
            skipped = int(np.argmax(row.placed.scored[stretch]))
            if skipped:
                late.append((row, int(stretch[0]), skipped))
    counts = {skipped for _, _, skipped in late}
    # by different numbers, where the mask has another length than the prompt; one token may be a template's blank
    if len(late) < max(2, 0.9 * answers) or (len(counts) != 1 and (len(late) < _FEWEST_LATE or min(counts) < 2)):
        return None
    texts = {tuple(row.placed.ids[at : at + skipped].tolist()) for row, at, skipped in late}
    if len(texts) == 1:  # the same tokens everywhere: the template writes them
        return None
    row = late[0][0]
    left_out = f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    return from_page(
        "answer-start-not-scored",
        f"{len(late):,} of {answers:,} answers, by the markers of the {row.family_name} template",
        f"unscored tokens at the beginning of each: {left_out}",
        case="tokens",
        example=row_example(row.placed, facts),
    )


def _in_words(rows: Sequence[ReadRow], facts: TokenFacts) -> Finding | None:
    """Masks that end within a word: what is scored begins with the rest of it. An answer begins with a word."""
    hit: list[ReadRow] = []
    judged = 0
    for row in rows:
        places = row.placed.scored_places
        if not len(places) or places[0] <= row.placed.start + 1:
            continue
        judged += 1
        before, first = facts.data(row.placed.ids[places[0] - 1 : places[0] + 1])
        if _LETTER.match(before[-1:]) and _LETTER.match(first[:1]):
            hit.append(row)
    if len(hit) < max(_FEWEST_IN_WORDS, _IN_WORDS * judged):
        return None
    placed = hit[0].placed
    return from_page(
        "answer-start-not-scored",
        f"{len(hit):,} of {judged:,} rows: the last unscored and the first scored token are parts of one word",
        case="inside words",
        example=row_example(placed, facts),
    )

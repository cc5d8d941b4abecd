"""Find held-out rows that are also in the training rows: equal, nearly equal, same prompt, or same answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from distillab.data.examples import Example
from distillab.doctor.data.repeats import plain_row
from distillab.doctor.data.words import plain_form, share, shown, word_groups
from distillab.doctor.page import from_page
from distillab.records import CheckResult, Finding

CHECK_ID = "train and held-out rows"
_GROUP = 8
_FEWEST_GROUPS = 16
_NEAR = 0.8
# a group of words that more held-out rows have belongs to a template; and each costs so many comparisons
_MOST_ROWS = 5
_LEAK = 0.5
_LONG_ANSWER = 20
_BLOCK = 4_000


def check_overlap(train: Sequence[Example], held_out: Sequence[Example]) -> CheckResult:
    """Compare the two parts: equal rows, rows of nearly the same words, equal prompts, equal long answers."""
    scope = f"{len(train):,} training rows, {len(held_out):,} held-out rows"
    if not held_out:
        return CheckResult(check=CHECK_ID, scope=scope, skipped="there are no held-out rows (--held-out FILE)")
    contents = {example.content: example for example in train}
    plain = {plain_row(example): example for example in train}
    exact = [example for example in held_out if example.content in contents]
    alike = [example for example in held_out if example.content not in contents and plain_row(example) in plain]
    rest = [example for example in held_out if plain_row(example) not in plain and example.content not in contents]
    near = _near(train, rest)
    found = [_rows(exact, alike, near, contents, plain, len(held_out))]
    if held_out[0].kind != "text":
        near_keys = {example.key for example, _, _ in near}
        others = [example for example in rest if example.key not in near_keys]
        found += [_prompts(train, others, len(held_out)), _answers(train, others, len(held_out))]
    return CheckResult(check=CHECK_ID, scope=scope, findings=tuple(one for one in found if one is not None))


def _rows(
    exact: Sequence[Example],
    alike: Sequence[Example],
    near: Sequence[tuple[Example, Example, float]],
    contents: dict[str, Example],
    plain: dict[str, Example],
    total: int,
) -> Finding | None:
    if not (exact or alike or near):
        return None
    evidence = []
    example: tuple[str, ...] = ()
    if near:
        held, own, part = near[0]
        evidence.append(
            f"{share(len(near), total)} share at least {_NEAR:.0%} of their {_GROUP}-grams of words with one"
        )
        example = _pair(held, own, f"{part:.0%} of the n-grams")
    if alike:
        evidence.insert(0, f"{share(len(alike), total)} are there with other case or white space")
        example = _pair(alike[0], plain[plain_row(alike[0])], "except for case and white space")
    if exact:
        evidence.insert(0, f"{share(len(exact), total)} held-out rows are in the training rows, exactly the same")
        example = _pair(exact[0], contents[exact[0].content], "equal")
    certain = len(exact) + len(alike) >= _LEAK * total
    return from_page(
        "train-held-out-overlap",
        *evidence,
        case="all" if certain else "some",
        severity="error" if certain else "warning",
        example=example,
    )


def _pair(held: Example, own: Example, how: str) -> tuple[str, ...]:
    return (f"{held.origin} and {own.origin} ({how}):", shown(held.prompt), shown(own.prompt))


def _prompts(train: Sequence[Example], held_out: Sequence[Example], total: int) -> Finding | None:
    known = {plain_form(example.prompt): example for example in train}
    hit = [example for example in held_out if plain_form(example.prompt) in known]
    if not hit:
        return None
    own = known[plain_form(hit[0].prompt)]
    return from_page(
        "held-out-prompts-in-train",
        f"{share(len(hit), total)} held-out rows",
        severity="warning" if len(hit) >= _LEAK * total else "note",
        example=(
            f"{hit[0].origin} and {own.origin}: {shown(hit[0].prompt)}",
            f"held out: {shown(hit[0].answer)}",
            f"trained:  {shown(own.answer)}",
        ),
    )


def _answers(train: Sequence[Example], held_out: Sequence[Example], total: int) -> Finding | None:
    known = {plain_form(example.answer): example for example in train if _long(example.answer)}
    hit = [example for example in held_out if _long(example.answer) and plain_form(example.answer) in known]
    hit = [e for e in hit if plain_form(known[plain_form(e.answer)].prompt) != plain_form(e.prompt)]
    if not hit:
        return None
    own = known[plain_form(hit[0].answer)]
    return from_page(
        "held-out-answers-in-train",
        f"{share(len(hit), total)} held-out rows, with answers of {_LONG_ANSWER} words and more",
        example=(
            f"{hit[0].origin} and {own.origin}: {shown(hit[0].answer)}",
            f"held out: {shown(hit[0].prompt)}",
            f"trained:  {shown(own.prompt)}",
        ),
    )


def _long(text: str) -> bool:
    return len(text.split()) >= _LONG_ANSWER


def _near(train: Sequence[Example], held_out: Sequence[Example]) -> list[tuple[Example, Example, float]]:
    """(held-out row, training row, share of the former's groups of words that stand in the latter) of near copies.

    Linear: a group of words that more than a few held-out rows have leads to none of them.
    """
    groups = word_groups([_text(example) for example in held_out], _GROUP).once()
    order = np.argsort(groups.hashes, kind="stable")
    rows = groups.texts[order]
    unique, first, times = np.unique(groups.hashes[order], return_index=True, return_counts=True)
    rare = times <= _MOST_ROWS
    unique, first, times = unique[rare], first[rare], times[rare]
    if not len(unique):
        return []
    judged = np.bincount(groups.where(_among(groups.hashes, unique)).texts, minlength=len(held_out))
    best: dict[int, tuple[float, int]] = {}
    for start in range(0, len(train), _BLOCK):
        block = word_groups([_text(example) for example in train[start : start + _BLOCK]], _GROUP)
        block = block.where(_among(block.hashes, unique)).once()
        place = np.searchsorted(unique, block.hashes)
        repeat = times[place]
        # each group of words leads to all held-out rows that have it
        offsets = np.arange(int(repeat.sum())) - np.repeat(np.cumsum(repeat) - repeat, repeat)
        held = rows[np.repeat(first[place], repeat) + offsets]
        pairs, common = np.unique(held << 32 | np.repeat(block.texts, repeat), return_counts=True)
        for pair, count in zip(pairs.tolist(), common.tolist(), strict=True):
            row, own = pair >> 32, start + (pair & 0xFFFFFFFF)
            part = count / int(judged[row])
            if judged[row] >= _FEWEST_GROUPS and part >= _NEAR and part > best.get(row, (0.0, 0))[0]:
                best[row] = (part, own)
    return [(held_out[row], train[own], part) for row, (part, own) in sorted(best.items())]


def _among(hashes: NDArray[np.uint64], known: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which hashes stand among the sorted `known`; np.isin takes three times as long."""
    place = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
    return known[place] == hashes


def _text(example: Example) -> str:
    return " ".join(example.texts)

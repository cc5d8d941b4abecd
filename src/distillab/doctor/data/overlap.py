"""Rows that repeat each other, and held-out rows that are training rows too: equal, nearly so, or in part."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from distillab.data.examples import Example
from distillab.doctor.checks import Checked, Scope, Skipped, check, from_page
from distillab.doctor.data.words import plain_form, share, shown, word_groups
from distillab.records import Finding

_GROUP = 8
_FEWEST_GROUPS = 16
_NEAR = 0.8
# a group of words that more held-out rows have belongs to a template; and each costs so many comparisons
_MOST_ROWS = 5
_LEAK = 0.5
_LONG_ANSWER = 20
_BLOCK = 4_000

_MANY = 0.01
_SHORT_WORDS = 3
_MOST_ANSWERS_SHOWN = 3


@check("train and held-out rows")
def check_overlap(train: Sequence[Example], held_out: Sequence[Example]) -> Checked:
    """Compare the two parts: equal rows, rows of nearly the same words, equal prompts, equal long answers."""
    yield Scope(f"{len(train):,} training rows, {len(held_out):,} held-out rows")
    if not held_out:
        raise Skipped("there are no held-out rows (--held-out FILE)")
    contents = {example.content: example for example in train}
    plain = {plain_row(example): example for example in train}
    exact = [example for example in held_out if example.content in contents]
    alike = [example for example in held_out if example.content not in contents and plain_row(example) in plain]
    rest = [example for example in held_out if plain_row(example) not in plain and example.content not in contents]
    near = _near(train, rest)
    yield _rows(exact, alike, near, contents, plain, len(held_out))
    if held_out[0].kind != "text":
        near_keys = {example.key for example, _, _ in near}
        others = [example for example in rest if example.key not in near_keys]
        yield _prompts(train, others, len(held_out))
        yield _answers(train, others, len(held_out))


def _rows(
    exact: Sequence[Example],
    alike: Sequence[Example],
    near: Sequence[tuple[Example, Example, float]],
    contents: dict[str, Example],
    plain: dict[str, Example],
    total: int,
) -> Finding | None:
    if exact:
        held, own, how = exact[0], contents[exact[0].content], "equal"
    elif alike:
        held, own, how = alike[0], plain[plain_row(alike[0])], "except for case and white space"
    elif near:
        held, own, how = near[0][0], near[0][1], f"{near[0][2]:.0%} of the n-grams"
    else:
        return None
    certain = len(exact) + len(alike) >= _LEAK * total
    grams = f"share at least {_NEAR:.0%} of their {_GROUP}-grams of words with one"
    return from_page(
        "train-held-out-overlap",
        f"{share(len(exact), total)} held-out rows are in the training rows, exactly the same" if exact else None,
        f"{share(len(alike), total)} are there with other case or white space" if alike else None,
        f"{share(len(near), total)} {grams}" if near else None,
        case="all" if certain else "some",
        example=(f"{held.origin} and {own.origin} ({how}):", shown(held.prompt), shown(own.prompt)),
    )


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


@check("repeated rows")
def check_repeats(examples: Sequence[Example]) -> Checked:
    """Count rows that stand more than once, and prompts with different answers."""
    prompts = len({prompt_of(example) for example in examples})
    scope = f"{len(examples):,} rows"
    if examples and examples[0].kind != "text":
        scope += f", {prompts:,} different prompts"
    yield Scope(scope)
    yield _repeated(examples)
    yield _several_answers(examples)


def prompt_of(example: Example) -> Hashable:
    """All that stands before the last answer, for telling prompts apart."""
    return example.messages[:-1] if example.kind == "messages" else example.prompt


def plain_row(example: Example) -> str:
    """The row's texts without case and white space."""
    if example.kind == "text":
        return plain_form(example.prompt + example.answer)
    return "\x1f".join(plain_form(text) for text in example.texts)


def _repeated(examples: Sequence[Example]) -> Finding | None:
    exact = Counter(example.content for example in examples)
    plain = Counter(plain_row(example) for example in examples)
    extra, extra_plain = len(examples) - len(exact), len(examples) - len(plain)
    if not extra_plain:
        return None
    row, times = plain.most_common(1)[0]
    places = [example for example in examples if plain_row(example) == row]
    evidence = [f"{share(extra, len(examples))} rows repeat another one exactly"]
    if extra_plain > extra:
        evidence.append(f"{share(extra_plain, len(examples))} do when case and white space are ignored")
    evidence.append(
        f"the most frequent one occurs {times:,} times: {'; '.join(example.origin for example in places[:4])}"
    )
    return from_page(
        "duplicated-rows",
        *evidence,
        case="data",
        severity="warning" if extra_plain >= _MANY * len(examples) else "note",
        example=(f"{shown(places[0].prompt)} → {shown(places[0].answer)}",),
    )


def _several_answers(examples: Sequence[Example]) -> Finding | None:
    if not examples or examples[0].kind == "text":
        return None
    answers: defaultdict[Hashable, Counter[str]] = defaultdict(Counter)
    for example in examples:
        answers[prompt_of(example)][plain_form(example.answer)] += 1
    several = {prompt: own for prompt, own in answers.items() if len(own) > 1}
    if not several:
        return None
    rows = sum(own.total() for own in several.values())
    # a label is right or wrong, a sentence can be written in many ways
    labels = all(len(text.split()) <= _SHORT_WORDS for own in several.values() for text in own)
    prompt, own = max(several.items(), key=lambda pair: len(pair[1]))
    first = next(example for example in examples if prompt_of(example) == prompt)
    return from_page(
        "prompts-with-several-answers",
        f"{share(len(several), len(answers))} prompts have different answers; {share(rows, len(examples))} rows",
        f"one prompt has {len(own):,} different answers in {own.total():,} rows",
        case="short" if labels else "long",
        severity="warning" if labels and rows >= _MANY * len(examples) else "note",
        example=(
            shown(first.prompt),
            *(f"→ {shown(text)}, {times:,} times" for text, times in own.most_common(_MOST_ANSWERS_SHOWN)),
        ),
    )

"""How long answers are (empty, one token, cut off, the same), and whether they belong to their prompts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from distillab.data.examples import Example
from distillab.doctor.checks import Checked, Scope, Skipped, check, from_page
from distillab.doctor.data.subject import EncodedPart
from distillab.doctor.data.words import share, shown, words_of
from distillab.records import Finding

_RARE = 5
_FEWEST_ROWS = 30
_STRONG = 2
_OTHERS, _OWN = 0.6, 0.1
_Ints = NDArray[np.int64]
_FEWEST = 20
_SAME_SHARE = 0.5
_ONE_TOKEN_SHARE = 0.5
_CUT_SHARE = 0.01


@check("answers and their prompts")
def check_matching(examples: Sequence[Example]) -> Checked:
    """Look for answers that stand beside another row's prompt.

    A word that few prompts have is strong evidence. An answer votes for the prompt that shares most rare words with it.
    """
    if not examples or examples[0].kind == "text":
        yield Scope(f"{len(examples):,} rows")
        raise Skipped("plain text has no prompts")
    prompts = [set(words_of(example.prompt)) for example in examples]
    where: defaultdict[str, list[int]] = defaultdict(list)
    for place, words in enumerate(prompts):
        for word in words:
            where[word].append(place)
    own = others = judged = 0
    moves: Counter[int] = Counter()
    first: tuple[int, int] | None = None
    for place, example in enumerate(examples):
        votes: Counter[int] = Counter()
        for word in set(words_of(example.answer)):
            found = where.get(word, ())
            if len(found) <= _RARE:
                votes.update(found)
        strong = [(times, other) for other, times in votes.items() if times >= _STRONG]
        if not strong:
            continue
        judged += 1
        times, best = max(strong)
        if votes[place] == times:
            own += 1
        elif not votes[place]:
            others += 1
            moves[best - place] += 1
            first = first or (place, best)
    yield Scope(f"{len(examples):,} rows, {judged:,} with answers that share rare words with a prompt")
    if judged < _FEWEST_ROWS:
        raise Skipped("too few answers share rare words with any prompt")
    if first is None or others < _OTHERS * judged or own > _OWN * judged:
        return
    step, times = moves.most_common(1)[0]
    moved = f"{times:,} of these prompts are {step:+,} rows away: one column is shifted relative to the other"
    place, best = first
    yield from_page(
        "answers-of-other-prompts",
        f"of {judged:,} answers that share {_STRONG} rare words or more with a prompt, {own:,} do so with their own",
        f"{share(others, judged)} share them with another row's prompt and none with their own",
        moved if times >= 0.5 * others else None,
        example=(
            f"{examples[place].origin}: {shown(examples[place].prompt)}",
            f"its answer: {shown(examples[place].answer)}",
            f"{examples[best].origin} would fit: {shown(examples[best].prompt)}",
        ),
    )


@check("answer lengths")
def check_lengths(examples: Sequence[Example], encoded: EncodedPart) -> Checked:
    """Look at the answers' lengths, as texts and in the student's tokens.

    Args:
        examples: all rows to learn from.
        encoded: the same rows (or a part of them), encoded.
    """
    tokens = np.array([int(row.answer_mask.sum()) for row in encoded.whole], dtype=np.int64)
    lengths = np.array([len(row) for row in encoded.whole], dtype=np.int64)
    scope = encoded.summary
    if len(tokens):
        scope += f"; answers of {_quantiles(tokens)} tokens with EOS, rows of {_quantiles(lengths)}"
    yield Scope(scope)
    yield _empty(examples)
    yield _no_room(encoded)
    yield _cut_off(encoded, tokens, lengths)
    yield _one_token(encoded, tokens)
    yield _equal(examples)


def _quantiles(values: _Ints) -> str:
    middle, high = np.percentile(values, [50, 95], method="nearest")
    return f"{middle:,} (median), {high:,} (95 %), {values.max():,} (longest)"


def _empty(examples: Sequence[Example]) -> Finding | None:
    hit = [example for example in examples if not all(answer.strip() for answer in example.answers)]
    if not hit:
        return None
    every = len(hit) == len(examples)
    return from_page(
        "answers-empty",
        f"{share(len(hit), len(examples))} rows have an answer without any text",
        case="all" if every else "some",
        example=tuple(f"{example.origin}: {shown(example.prompt)}" for example in hit[:3]),
    )


def _no_room(encoded: EncodedPart) -> Finding | None:
    hit = [
        (row, example)
        for row, example in zip(encoded.whole, encoded.examples, strict=True)
        if not row.answer_mask[: encoded.max_tokens].any()
    ]
    if not hit:
        return None
    every = len(hit) == len(encoded.whole)
    row, example = hit[0]
    return from_page(
        "prompts-fill-rows",
        f"{share(len(hit), len(encoded.whole))} rows have no answer token within {encoded.max_tokens} tokens",
        severity="error" if every else "warning",
        example=(f"{example.origin}: {int(row.answer_mask.argmax()):,} tokens before the answer",),
    )


def _cut_off(encoded: EncodedPart, tokens: _Ints, lengths: _Ints) -> Finding | None:
    hit = np.flatnonzero(lengths > encoded.max_tokens)
    if not len(hit):
        return None
    kept = sum(int(row.answer_mask[: encoded.max_tokens].sum()) for row in encoded.whole)
    longest = int(lengths.argmax())
    return from_page(
        "answers-cut-off",
        f"{share(len(hit), len(lengths))} rows have more than {encoded.max_tokens:,} tokens",
        f"{1 - kept / int(tokens.sum()):.1%} of the answers' tokens are cut off; "
        f"the longest row has {int(lengths.max()):,}",
        f"99 % of the rows fit into {int(np.percentile(lengths, 99, method='higher')):,} tokens",
        severity="warning" if len(hit) >= _CUT_SHARE * len(lengths) else "note",
        example=(f"{encoded.examples[longest].origin}: {shown(encoded.examples[longest].prompt)}",),
        words={"longest": int(lengths.max())},
    )


def _one_token(encoded: EncodedPart, tokens: _Ints) -> Finding | None:
    # the end token is scored too
    hit = np.flatnonzero(tokens <= 2)
    if len(tokens) < _FEWEST or len(hit) < _ONE_TOKEN_SHARE * len(tokens):
        return None
    texts = Counter(encoded.examples[place].answer for place in hit.tolist())
    return from_page(
        "answers-one-token",
        f"{share(len(hit), len(tokens))} answers are one token and EOS",
        example=tuple(f"{shown(text)}: {times:,} times" for text, times in texts.most_common(3)),
    )


def _equal(examples: Sequence[Example]) -> Finding | None:
    if len(examples) < _FEWEST or examples[0].kind == "text" or len({example.prompt for example in examples}) < 2:
        return None
    answer, times = Counter(example.answer.strip() for example in examples).most_common(1)[0]
    if times < _SAME_SHARE * len(examples) or not answer:
        return None
    return from_page("answers-equal", f"{share(times, len(examples))} rows have this answer", example=(shown(answer),))

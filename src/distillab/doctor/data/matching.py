"""Whether answers belong to their prompts: by rare words that an answer shares with a prompt."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from distillab.data.examples import Example
from distillab.doctor.checks import Checked, Scope, Skipped, check, from_page
from distillab.doctor.data.words import share, shown, words_of

_RARE = 5
_FEWEST_ROWS = 30
_STRONG = 2
_OTHERS, _OWN = 0.6, 0.1


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

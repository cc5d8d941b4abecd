"""Rows that repeat each other, and prompts that have several answers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

from distillab.data.examples import Example
from distillab.doctor.data.words import plain_form, share, shown
from distillab.doctor.page import from_page
from distillab.records import CheckResult, Finding

CHECK_ID = "repeated rows"
_MANY = 0.01
_SHORT_WORDS = 3
_MOST_ANSWERS_SHOWN = 3


def check_repeats(examples: Sequence[Example]) -> CheckResult:
    """Count rows that stand more than once, and prompts with different answers."""
    prompts = len({prompt_of(example) for example in examples})
    scope = f"{len(examples):,} rows"
    if examples and examples[0].kind != "text":
        scope += f", {prompts:,} different prompts"
    found = [_repeated(examples), _several_answers(examples)]
    return CheckResult(check=CHECK_ID, scope=scope, findings=tuple(one for one in found if one is not None))


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

"""What a teacher wrote: cut off, empty, in a loop, refusing; the prompt again, the reference itself, markers."""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from distillab.doctor.checks import Checked, Scope, Skipped, check, from_page
from distillab.doctor.data.content import Language, differ, language_of
from distillab.doctor.data.subject import TeacherText
from distillab.doctor.data.words import LANGUAGES, around, family_of, marker_in, not_checked, plain_form, share, shown
from distillab.doctor.run.answers import repeated_share
from distillab.records import Finding

_FEWEST = 20
_CUT_SHARE, _ALL_CUT = 0.05, 0.95
_LOOP_WORDS, _LOOP_SHARE, _LOOP_MANY = 12, 0.5, 0.02
_LOOP_CHARACTERS = 60
_MANY_REFUSALS = 0.01
_MANY_EMPTY = 0.01
_SAME_SHARE = 0.5

_PHRASES = Path(__file__).parent / "refusals.toml"
_PROMPT_WORDS, _ECHO, _EVERY_ECHO = 4, 0.05, 0.9
_MANY = 0.01
_LANGUAGE_MANY, _FEWEST_LANGUAGE = 0.02, 3
_LONG_WORDS, _COPIES = 12, 0.2


@check("teacher's answers")
def check_teacher_ends(texts: Sequence[TeacherText], *, plain_text: bool) -> Checked:
    """Look at answers for what makes them unfit to be learned from.

    Args:
        plain_text: the teacher went on with texts, which have no natural end.
    """
    yield Scope(f"{len(texts):,} answers")
    if not texts:
        raise Skipped("there are no answers of a teacher (--answers)")
    known = sum(text.finished is not None for text in texts)
    ends = "" if known else "; without a column finish_reason, which answers were cut is not known"
    yield Scope(f"{len(texts):,} answers to {len({text.prompt for text in texts}):,} prompts{ends}")
    yield _cut_off([text for text in texts if text.finished is not None], plain_text=plain_text)
    yield _empty(texts)
    yield _loops(texts)
    yield _refusals(texts)
    yield _same(texts)


def refuses(text: str) -> bool:
    """Whether a text begins as refusals do, in the languages of `refusals.toml`.

    >>> refuses("I’m sorry, but I can't help with that."), refuses("I cannot stress enough how good it is.")
    (True, False)
    """
    return _begins().match(unicodedata.normalize("NFC", text[:200]).replace("’", "'")) is not None


@cache
def _begins() -> re.Pattern[str]:
    phrases = tomllib.loads(_PHRASES.read_text(encoding="utf-8"))
    every = "|".join(line for lines in phrases.values() for line in lines.split("\n") if line)
    return re.compile(rf"\W*(?:{every})", re.IGNORECASE)


def loops(text: str) -> bool:
    """Whether a text repeats itself: most groups of three words stand twice, or its end is one short piece again and
    again."""
    if len(text.split()) >= _LOOP_WORDS and repeated_share(text) > _LOOP_SHARE:
        return True
    end = text[-_LOOP_CHARACTERS:].rstrip()
    # a rule of dashes or dots is no loop, nor are blanks
    if len(end) < _LOOP_CHARACTERS - 10 or not any(map(str.isalnum, end)):
        return False
    return any(end[size:] == end[:-size] for size in range(1, len(end) // 4))


def _cut_off(texts: Sequence[TeacherText], *, plain_text: bool) -> Finding | None:
    cut = [text for text in texts if text.finished is False]
    if not cut or len(cut) < _CUT_SHARE * len(texts):
        return None
    never = len(cut) >= _ALL_CUT * len(texts) and len(texts) >= _FEWEST and not plain_text
    return from_page(
        "teacher-answers-cut-off",
        f"{share(len(cut), len(texts))} answers were cut at the maximum length",
        case="all" if never else "some",
        severity="error" if never else "note" if plain_text else "warning",
        example=tuple(f"…{text.text[-100:]!r}" for text in cut[:2]),
    )


def _empty(texts: Sequence[TeacherText]) -> Finding | None:
    hit = [text for text in texts if not text.text.strip()]
    if not hit:
        return None
    every = len(hit) == len(texts)
    return from_page(
        "teacher-answers-empty",
        f"{share(len(hit), len(texts))} answers have no text",
        case="all" if every else "some",
        severity="error" if every else "warning" if len(hit) >= _MANY_EMPTY * len(texts) else "note",
        example=tuple(shown(text.prompt) for text in hit[:3]),
    )


def _loops(texts: Sequence[TeacherText]) -> Finding | None:
    hit = [text for text in texts if loops(text.text)]
    if not hit:
        return None
    return from_page(
        "teacher-answers-loop",
        f"{share(len(hit), len(texts))} answers: more than half of their 3-grams of words occur earlier, or "
        "their end repeats one piece",
        severity="warning" if len(hit) >= _LOOP_MANY * len(texts) else "note",
        example=tuple(f"…{text.text[-120:]!r}" for text in hit[:2]),
    )


def _refusals(texts: Sequence[TeacherText]) -> Finding | None:
    hit = [text for text in texts if refuses(text.text) and not any(map(refuses, text.references))]
    if not hit:
        return None
    return from_page(
        "teacher-refuses",
        f"{share(len(hit), len(texts))} answers begin like refusals, where the data set's answer does not",
        severity="warning" if len(hit) >= _MANY_REFUSALS * len(texts) else "note",
        example=tuple(f"{shown(text.prompt)} → {shown(text.text)}" for text in hit[:2]),
    )


def _same(texts: Sequence[TeacherText]) -> Finding | None:
    if len(texts) < _FEWEST or len({text.prompt for text in texts}) < 2:
        return None
    answer, times = Counter(plain_form(text.text) for text in texts).most_common(1)[0]
    if times < _SAME_SHARE * len(texts) or not answer:
        return None
    return from_page(
        "teacher-answers-same", f"{share(times, len(texts))} answers are the same text", example=(shown(answer),)
    )


@check("teacher's answers and the data")
def check_teacher_sources(texts: Sequence[TeacherText]) -> Checked:
    """Compare answers with their prompts and with the data set's own answers."""
    yield Scope(f"{len(texts):,} answers")
    if not texts:
        raise Skipped("there are no answers of a teacher (--answers)")
    known = sum(bool(text.references) for text in texts)
    left_out = not_checked("language", LANGUAGES)
    yield Scope(
        "; ".join(filter(None, (f"{len(texts):,} answers, {known:,} to prompts of the training rows", left_out)))
    )
    yield _echoes(texts)
    yield _markers(texts)
    yield _copies(texts)
    if left_out is None:
        yield _languages(texts)


def _echoes(texts: Sequence[TeacherText]) -> Finding | None:
    judged = [text for text in texts if len(text.prompt.split()) >= _PROMPT_WORDS]
    hit = [
        text
        for text in judged
        if _echoed(text.text, text.prompt) and not any(_echoed(r, text.prompt) for r in text.references)
    ]
    if not hit or len(hit) < _ECHO * len(judged):
        return None
    every = len(hit) >= _EVERY_ECHO * len(judged) and len(judged) >= _FEWEST
    return from_page(
        "teacher-repeats-prompt",
        f"{share(len(hit), len(judged))} answers begin with the whole prompt",
        case="all" if every else "some",
        example=(shown(hit[0].prompt), f"→ {shown(hit[0].text)}"),
    )


def _echoed(answer: str, prompt: str) -> bool:
    return plain_form(answer[: 2 * len(prompt) + 200]).startswith(plain_form(prompt))


def _markers(texts: Sequence[TeacherText]) -> Finding | None:
    hit = [text for text in texts if marker_in(text.text) and not any(map(marker_in, text.references))]
    if not hit:
        return None
    families = Counter(family_of(text.text) for text in hit)
    text = hit[0].text
    return from_page(
        "teacher-template-markers",
        f"{share(len(hit), len(texts))} answers; "
        + ", ".join(f"{name}: {times:,}" for name, times in families.most_common()),
        severity="warning" if len(hit) >= _MANY * len(texts) else "note",
        example=(around(text, marker_in(text) or "", reach=60),),
    )


def _languages(texts: Sequence[TeacherText]) -> Finding | None:
    judged: list[tuple[TeacherText, Language, Language]] = []
    for text in texts:
        wrote = language_of(text.text)
        known = [language for own in text.references if (language := language_of(own)) is not None]
        if wrote is not None and known:
            judged.append((text, wrote, next((one for one in known if not differ(one, wrote)), known[0])))
    hit = [one for one in judged if differ(one[1], one[2])]
    if not hit:
        return None
    text, wrote, _ = hit[0]
    kinds = Counter(f"{own} → {wrote}" for _, wrote, own in hit).most_common(4)
    return from_page(
        "teacher-changes-language",
        f"{share(len(hit), len(judged))} answers that can be compared with the data set's own",
        ", ".join(f"{kind}: {times:,}" for kind, times in kinds),
        severity="warning" if len(hit) >= max(_FEWEST_LANGUAGE, _LANGUAGE_MANY * len(judged)) else "note",
        example=(f"{shown(text.prompt)} → {shown(text.text)} ({wrote})",),
    )


def _copies(texts: Sequence[TeacherText]) -> Finding | None:
    judged = [text for text in texts if len(text.text.split()) >= _LONG_WORDS and text.references]
    if len(judged) < _FEWEST:
        return None
    hit = [text for text in judged if plain_form(text.text) in map(plain_form, text.references)]
    if len(hit) < _COPIES * len(judged):
        return None
    return from_page(
        "teacher-copies-reference",
        f"{share(len(hit), len(judged))} answers of {_LONG_WORDS} words and more equal the reference word by word",
        example=(f"{shown(hit[0].prompt)} → {shown(hit[0].text)}",),
    )

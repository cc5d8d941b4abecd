"""What a teacher wrote, beside prompt and reference: the prompt again, the reference itself, markers, languages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from distillab.doctor.checks import Checked, Scope, Skipped, check
from distillab.doctor.data.languages import Language, differ, language_of
from distillab.doctor.data.markers import family_of, marker_in
from distillab.doctor.data.subject import TeacherText
from distillab.doctor.data.words import LANGUAGES, not_checked, plain_form, share, shown
from distillab.doctor.page import from_page
from distillab.records import Finding

_FEWEST = 20
_PROMPT_WORDS, _ECHO, _EVERY_ECHO = 4, 0.05, 0.9
_MANY = 0.01
_LANGUAGE_MANY, _FEWEST_LANGUAGE = 0.02, 3
_LONG_WORDS, _COPIES = 12, 0.2


@check("teacher's answers and the data")
def check_teacher_sources(texts: Sequence[TeacherText], references: Mapping[str, Sequence[str]]) -> Checked:
    """Compare answers with their prompts and with the data set's own answers.

    Args:
        references: the data set's own answers, by prompt.
    """
    yield Scope(f"{len(texts):,} answers")
    if not texts:
        raise Skipped("there are no answers of a teacher (--answers)")
    known = sum(text.prompt in references for text in texts)
    left_out = not_checked("language", LANGUAGES)
    yield Scope(
        "; ".join(filter(None, (f"{len(texts):,} answers, {known:,} to prompts of the training rows", left_out)))
    )
    yield _echoes(texts, references)
    yield _markers(texts, references)
    yield _copies(texts, references)
    if left_out is None:
        yield _languages(texts, references)


def _echoes(texts: Sequence[TeacherText], references: Mapping[str, Sequence[str]]) -> Finding | None:
    judged = [text for text in texts if len(text.prompt.split()) >= _PROMPT_WORDS]
    hit = [
        text
        for text in judged
        if _echoed(text.text, text.prompt) and not any(_echoed(r, text.prompt) for r in references.get(text.prompt, ()))
    ]
    if not hit or len(hit) < _ECHO * len(judged):
        return None
    every = len(hit) >= _EVERY_ECHO * len(judged) and len(judged) >= _FEWEST
    return from_page(
        "teacher-repeats-prompt",
        f"{share(len(hit), len(judged))} answers begin with the whole prompt",
        case="all" if every else "some",
        severity="error" if every else "warning",
        example=(shown(hit[0].prompt), f"→ {shown(hit[0].text)}"),
    )


def _echoed(answer: str, prompt: str) -> bool:
    return plain_form(answer[: 2 * len(prompt) + 200]).startswith(plain_form(prompt))


def _markers(texts: Sequence[TeacherText], references: Mapping[str, Sequence[str]]) -> Finding | None:
    hit = [text for text in texts if marker_in(text.text) and not any(map(marker_in, references.get(text.prompt, ())))]
    if not hit:
        return None
    families = Counter(family_of(text.text) for text in hit)
    text = hit[0].text
    at = text.index(marker_in(text) or "")
    return from_page(
        "teacher-template-markers",
        f"{share(len(hit), len(texts))} answers; "
        + ", ".join(f"{name}: {times:,}" for name, times in families.most_common()),
        severity="warning" if len(hit) >= _MANY * len(texts) else "note",
        example=(repr(text[max(0, at - 60) : at + 60]),),
    )


def _languages(texts: Sequence[TeacherText], references: Mapping[str, Sequence[str]]) -> Finding | None:
    judged: list[tuple[TeacherText, Language, Language]] = []
    for text in texts:
        wrote = language_of(text.text)
        known = [language for own in references.get(text.prompt, ()) if (language := language_of(own)) is not None]
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


def _copies(texts: Sequence[TeacherText], references: Mapping[str, Sequence[str]]) -> Finding | None:
    judged = [text for text in texts if len(text.text.split()) >= _LONG_WORDS and text.prompt in references]
    if len(judged) < _FEWEST:
        return None
    hit = [text for text in judged if plain_form(text.text) in map(plain_form, references[text.prompt])]
    if len(hit) < _COPIES * len(judged):
        return None
    return from_page(
        "teacher-copies-reference",
        f"{share(len(hit), len(judged))} answers of {_LONG_WORDS} words and more equal the reference word by word",
        example=(f"{shown(hit[0].prompt)} → {shown(hit[0].text)}",),
    )

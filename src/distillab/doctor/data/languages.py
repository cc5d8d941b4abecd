"""The script of a text, and its language by py3langid; rows whose answer changes it."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from distillab.data.examples import Example
from distillab.doctor.checks import Checked, Scope, Skipped, check, from_page
from distillab.doctor.data.words import LANGUAGES, not_checked, share, shown

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

_LOOKED_AT = 800
_FEWEST_LETTERS, _FEWEST_SIGNS, _FEWEST_WORDS = 6, 3, 8
_MOST_OF_LETTERS = 0.6
_SURE = 0.8
# half a second of one core
_MOST_ROWS = 1_000
_FEWEST_ROWS = 20
_MANY = 0.02
_FEWEST_MANY = 3

# The first word of a letter's name is its script; letters of these are of one language, and texts have no blanks.
_OWN = {"CJK": "zh", "HIRAGANA": "ja", "KATAKANA": "ja", "HANGUL": "ko"}


@dataclass(frozen=True)
class Language:
    """The script of a text, and its language (ISO 639-1) where py3langid is sure."""

    script: str
    language: str | None = None

    @property
    def known(self) -> bool:
        """More is known than that it is Latin script."""
        return self.script != "Latin" or self.language is not None

    def __str__(self) -> str:
        return self.language or f"{self.script} script"


def language_of(text: str) -> Language | None:
    """What most of a text's letters are; None for few letters (numbers, code, labels).

    >>> str(language_of("Das ist ein Satz, der nicht für die Probe gemacht ist.")), str(language_of("Это текст"))
    ('de', 'Cyrillic script')
    """
    text = text[:_LOOKED_AT]
    letters = sum(map(str.isalpha, text))
    counts = Counter({"Latin": letters}) if text.isascii() else Counter(map(_script, filter(str.isalpha, text)))
    if counts["ja"] >= 0.05 * letters:  # Japanese is written with Chinese characters too
        counts["ja"] += counts.pop("zh", 0)
    script, most = counts.most_common(1)[0]
    own = script in _OWN.values()
    if most < max(_MOST_OF_LETTERS * letters, _FEWEST_SIGNS if own else _FEWEST_LETTERS):
        return None
    if own or len(text.split()) < _FEWEST_WORDS:
        return Language(script, script if own else None)
    name, sure = _identifier().classify(text)
    return Language(script, name if sure >= _SURE else None)


def differ(one: Language | None, two: Language | None) -> bool:
    """True where both are known and are not the same; a text without a language differs by its script alone."""
    if one is None or two is None:
        return False
    if one.script != two.script:
        return True
    return one.language is not None and two.language is not None and one.language != two.language


@check("languages")
def check_languages(examples: Sequence[Example]) -> Checked:
    """Find rows whose answer changes the language of their prompt, where most rows keep it; or the reverse.

    Data in which most rows change (translations) is judged by the rows that do not.
    """
    yield Scope(f"{len(examples):,} rows")
    if examples and examples[0].kind == "text":
        raise Skipped("plain text has no prompts")
    if (left_out := not_checked("language", LANGUAGES)) is not None:
        raise Skipped(left_out)
    judged: list[tuple[Example, Language, Language]] = []
    looked = examples[:: max(1, len(examples) // _MOST_ROWS)]
    for example in looked:
        prompt_language, answer_language = language_of(example.prompt), language_of(example.answer)
        if prompt_language is not None and answer_language is not None:
            judged.append((example, prompt_language, answer_language))
    scope = f"{len(looked):,} of {len(examples):,} rows, {len(judged):,} with enough letters in prompt and answer"
    yield Scope(scope)
    if len(judged) < _FEWEST_ROWS:
        raise Skipped("too few rows have enough letters")
    common = Counter(str(answer_language) for _, _, answer_language in judged).most_common(3)
    yield Scope(f"{scope}; answers: {', '.join(f'{name} {times:,}' for name, times in common)}")
    changed = [row for row in judged if differ(row[1], row[2])]
    translates = len(changed) > 0.5 * len(judged)
    stays = [row for row in judged if row[1].known and row[2].known and not differ(row[1], row[2])]
    hit = stays if translates else changed
    if not hit:
        return
    example, prompt_language, answer_language = hit[0]
    kinds = Counter(
        f"{prompt_language} → {answer_language}" for _, prompt_language, answer_language in hit
    ).most_common(4)
    yield from_page(
        "language-change",
        f"{share(len(hit), len(judged))} rows with enough text",
        ", ".join(f"{kind}: {times:,}" for kind, times in kinds),
        case="translation" if translates else "same language",
        severity="warning" if len(hit) >= max(_FEWEST_MANY, _MANY * len(judged)) else "note",
        example=(
            f"{example.origin}: {shown(example.prompt)} ({prompt_language})",
            f"answer: {shown(example.answer)} ({answer_language})",
        ),
    )


@cache
def _script(character: str) -> str:
    word = re.split("[ -]", unicodedata.name(character, ""), maxsplit=1)[0]
    return _OWN.get(word, word.capitalize())


@cache
def _identifier() -> LanguageIdentifier:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    # names of three letters are dialects of the others, and "no language"
    identifier.set_languages([name for name in identifier.labels if len(name) == 2])
    return identifier

"""The script of a text, and its language where that can be recognised; rows whose answer changes it."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from distillab.data.examples import Example
from distillab.doctor.data.words import share, shown
from distillab.doctor.page import from_page
from distillab.records import CheckResult

CHECK_ID = "languages"
_LOOKED_AT = 800
_FEWEST_LETTERS, _FEWEST_SIGNS, _FEWEST_WORDS = 6, 3, 8
_MOST_OF_LETTERS = 0.6
_FEWEST_COMMON, _COMMON_SHARE, _AHEAD = 3, 0.12, 1.6
_FEWEST_ROWS = 20
_MANY = 0.02
_FEWEST_MANY = 3

# Beginnings of ranges; letters outside of these scripts are not judged.
_RANGES = (
    (0x41, "Latin"),
    (0x2B0, ""),
    (0x370, "Greek"),
    (0x400, "Cyrillic"),
    (0x530, "Armenian"),
    (0x590, "Hebrew"),
    (0x600, "Arabic"),
    (0x780, ""),
    (0x900, "Devanagari"),
    (0x980, "Bengali"),
    (0xA00, ""),
    (0xB80, "Tamil"),
    (0xC00, ""),
    (0xE00, "Thai"),
    (0xE80, ""),
    (0x10A0, "Georgian"),
    (0x1100, "Korean"),
    (0x1200, ""),
    (0x1E00, "Latin"),
    (0x1F00, "Greek"),
    (0x2000, ""),
    (0x3040, "Japanese"),
    (0x3100, ""),
    (0x3400, "Chinese"),
    (0xA000, ""),
    (0xAC00, "Korean"),
    (0xD7B0, ""),
)
_STARTS = [start for start, _ in _RANGES]
_WORDS = {
    "English": "the of and to in is that for it was with are this be on as by from at which you not",
    "German": "der die und das ist nicht ein eine zu den mit für auf dem sich des auch wird von im sind als",
    "French": "le la les et des est une dans pour que qui du par sur pas au avec plus ce sont il elle vous",
    "Spanish": "el los las y es una en por que del con para no se su al como más lo está son pero",
    "Italian": "il di che è un per una del non si della sono con gli dei nel alla anche ha più le come",
    "Portuguese": "o os as e é um uma em que do da para com não por mais dos ao são na no se você",
    "Dutch": "de het een en van is dat niet op te zijn voor met die aan er ook bij worden naar",
}
_COMMON = {language: frozenset(words.split()) for language, words in _WORDS.items()}


@dataclass(frozen=True)
class Language:
    """Return the script of a text, and for Latin script its language where common words show it."""

    script: str
    language: str | None = None

    @property
    def known(self) -> bool:
        """More is known than that it is Latin script."""
        return self.script != "Latin" or self.language is not None

    def __str__(self) -> str:
        return self.language or (f"{self.script} script" if self.script == "Latin" else self.script)


def language_of(text: str) -> Language | None:
    """What most of a text's letters are; None for few letters (numbers, code, labels).

    >>> str(language_of("Das ist ein Satz, der nicht für die Probe gemacht ist.")), str(language_of("Это текст"))
    ('German', 'Cyrillic')
    """
    text = text[:_LOOKED_AT]
    script = "Latin" if text.isascii() else None
    if script is None:
        counts = Counter(_script(character) for character in text if character.isalpha())
        del counts[""]
        if counts["Japanese"] >= 0.05 * counts.total():  # Japanese is written with Chinese characters too
            counts["Japanese"] += counts.pop("Chinese", 0)
        best = counts.most_common(1)
        if not best or best[0][1] < _MOST_OF_LETTERS * counts.total():
            return None
        script = best[0][0]
        if best[0][1] < (_FEWEST_SIGNS if script in ("Chinese", "Japanese", "Korean") else _FEWEST_LETTERS):
            return None
    elif sum(map(str.isalpha, text)) < _FEWEST_LETTERS:
        return None
    return Language(script, _latin(text) if script == "Latin" else None)


def differ(one: Language | None, two: Language | None) -> bool:
    """True where both are known and are not the same; a text without a language differs by its script alone."""
    if one is None or two is None:
        return False
    if one.script != two.script:
        return True
    return one.language is not None and two.language is not None and one.language != two.language


def check_languages(examples: Sequence[Example]) -> CheckResult:
    """Find rows whose answer changes the language of their prompt, where most rows keep it; or the reverse.

    Data in which most rows change (translations) is judged by the rows that do not.
    """
    if examples and examples[0].kind == "text":
        return CheckResult(check=CHECK_ID, scope=f"{len(examples):,} rows", skipped="plain text has no prompts")
    judged: list[tuple[Example, Language, Language]] = []
    for example in examples:
        prompt_language, answer_language = language_of(example.prompt), language_of(example.answer)
        if prompt_language is not None and answer_language is not None:
            judged.append((example, prompt_language, answer_language))
    scope = f"{len(examples):,} rows, {len(judged):,} with enough letters in prompt and answer"
    if len(judged) < _FEWEST_ROWS:
        return CheckResult(check=CHECK_ID, scope=scope, skipped="too few rows have enough letters")
    common = Counter(str(answer_language) for _, _, answer_language in judged).most_common(3)
    scope += f"; answers: {', '.join(f'{name} {times:,}' for name, times in common)}"
    changed = [row for row in judged if differ(row[1], row[2])]
    translates = len(changed) > 0.5 * len(judged)
    stays = [row for row in judged if row[1].known and row[2].known and not differ(row[1], row[2])]
    hit = stays if translates else changed
    if not hit:
        return CheckResult(check=CHECK_ID, scope=scope)
    example, prompt_language, answer_language = hit[0]
    kinds = Counter(
        f"{prompt_language} → {answer_language}" for _, prompt_language, answer_language in hit
    ).most_common(4)
    finding = from_page(
        "language-change",
        "translation" if translates else "same language",
        severity="warning" if len(hit) >= max(_FEWEST_MANY, _MANY * len(judged)) else "note",
        evidence=(
            f"{share(len(hit), len(judged))} rows with enough text",
            ", ".join(f"{kind}: {times:,}" for kind, times in kinds),
        ),
        example=(
            f"{example.origin}: {shown(example.prompt)} ({prompt_language})",
            f"answer: {shown(example.answer)} ({answer_language})",
        ),
    )
    return CheckResult(check=CHECK_ID, scope=scope, findings=(finding,))


@cache
def _script(character: str) -> str:
    place = bisect_right(_STARTS, ord(character)) - 1
    return _RANGES[place][1] if place >= 0 else ""


def _latin(text: str) -> str | None:
    words = [word.strip(".,;:!?\"'()[]«»¿¡…") for word in text.lower().split()]
    counts = Counter(word for word in words if word.isalpha())
    if counts.total() < _FEWEST_WORDS:
        return None
    hits = sorted(((sum(counts[word] for word in own), name) for name, own in _COMMON.items()), reverse=True)
    (most, name), (second, _) = hits[:2]
    # one word again and again ("20 per week, 30 per day") is no language
    different = sum(word in counts for word in _COMMON[name])
    enough = different >= _FEWEST_COMMON and most >= _COMMON_SHARE * counts.total()
    return name if enough and most >= _AHEAD * second else None

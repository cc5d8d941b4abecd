"""What stands in the texts: damaged characters, unknown tokens, markers of templates, answers in prompts, languages."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from transformers import PreTrainedTokenizerFast

from distillab.data.examples import Example
from distillab.data.rendering import Template
from distillab.doctor.checks import Checked, Scope, Skipped, check, from_page
from distillab.doctor.data.damage import check_damage, check_escapes
from distillab.doctor.data.subject import EncodedPart
from distillab.doctor.data.words import (
    ENCODINGS,
    LANGUAGES,
    around,
    family_of,
    marker_in,
    not_checked,
    rendered_by,
    share,
    shown,
)
from distillab.records import Finding, Severity

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

_MANY = 0.01
_MUCH_UNKNOWN, _MOSTLY_UNKNOWN = 0.02, 0.5
_FEWEST = 20
_MOST_INSIDE, _MOST_AT_END = 0.5, 0.05
_FEWEST_WORDS = 4

_FEWEST_CUT, _MANY_CUT, _NEARLY_ALL = 5, 0.02, 0.9
_SHORTEST = 20
_CLOSED = frozenset(".!?…。！？\"')]}`>:;|")
_LOOKED_AT = 800
_FEWEST_LETTERS, _FEWEST_SIGNS, _FEWEST_WORDS_OF_A_LANGUAGE = 6, 3, 8
_MOST_OF_LETTERS = 0.6
_SURE = 0.8
# half a second of one core
_MOST_ROWS = 1_000
_FEWEST_ROWS = 20
_MANY_CHANGES = 0.02
_FEWEST_MANY = 3

# The first word of a letter's name is its script; letters of these are of one language, and texts have no blanks.
_OWN = {"CJK": "zh", "HIRAGANA": "ja", "KATAKANA": "ja", "HANGUL": "ko"}


@check("texts")
def check_content(
    examples: Sequence[Example], encoded: EncodedPart, template: Template, tokenizer: PreTrainedTokenizerFast
) -> Checked:
    """Read every text for what a conversion left in it.

    Args:
        template: in which the rows will be rendered.
        tokenizer: the student's.
    """
    characters = sum(len(text) for example in examples for text in example.texts)
    left_out = not_checked("text read in a wrong encoding", ENCODINGS)
    yield Scope("; ".join(filter(None, (f"{len(examples):,} rows, {characters:,} characters", left_out))))
    yield check_damage(examples)
    yield check_escapes(examples)
    yield check_cut_texts(examples)
    yield _unknown_tokens(encoded, tokenizer)
    yield _markers(examples)
    yield _rendered(examples, template)
    yield _inside(examples)


def _unknown_tokens(encoded: EncodedPart, tokenizer: PreTrainedTokenizerFast) -> Finding | None:
    unknown = tokenizer.unk_token_id
    # GPT-2's unknown token is its end token
    if unknown is None or unknown in (tokenizer.eos_token_id, tokenizer.bos_token_id) or not encoded.whole:
        return None
    roles = [token for token in (tokenizer.bos_token_id, tokenizer.eos_token_id) if token is not None]
    counts = [int((row.input_ids == unknown).sum()) for row in encoded.whole]
    count, total = sum(counts), sum(int((~np.isin(row.input_ids, roles)).sum()) for row in encoded.whole)
    if not count:
        return None
    worst = max(range(len(counts)), key=lambda place: counts[place])
    severity: Severity = (
        "error" if count >= _MOSTLY_UNKNOWN * total else "warning" if count >= _MUCH_UNKNOWN * total else "note"
    )
    return from_page(
        "unknown-tokens",
        f"{share(count, total)} tokens are the unknown token",
        f"{share(sum(number > 0 for number in counts), len(counts))} rows have one or more",
        case="in the batch" if severity != "note" else "some",
        severity=severity,
        example=(f"{encoded.examples[worst].origin}: {shown(encoded.examples[worst].answer)}",),
    )


def _markers(examples: Sequence[Example]) -> Finding | None:
    hit = [(example, text) for example in examples for text in example.answers if marker_in(text)]
    if not hit:
        return None
    families = Counter(family_of(text) for _, text in hit)
    ends = sum(_ends_with_marker(text) for _, text in hit)
    example, text = hit[0]
    return from_page(
        "markers-in-text",
        f"{share(len(hit), len(examples))} rows; "
        + ", ".join(f"{name}: {times:,}" for name, times in families.most_common()),
        f"{ends:,} of these answers end with the marker",
        severity="warning" if len(hit) >= _MANY * len(examples) else "note",
        example=(f"{example.origin}: {around(text, marker_in(text) or '', reach=60)}",),
    )


def _ends_with_marker(text: str) -> bool:
    last = text.rstrip()
    found = marker_in(last[-24:])
    return found is not None and last.endswith(found)


def _rendered(examples: Sequence[Example], template: Template) -> Finding | None:
    hit = [(example, name) for example in examples if (name := rendered_by(example.prompt))]
    if not hit or examples[0].kind == "text" or len(hit) < _MANY * len(examples):
        return None
    twice = template.name in ("chat", "alpaca", "turns")
    example, _ = hit[0]
    return from_page(
        "prompts-already-rendered",
        f"{share(len(hit), len(examples))} prompts are in the template "
        + ", ".join(name for name, _ in Counter(name for _, name in hit).most_common()),
        f"the rows are rendered in the template {template.name}",
        case="twice" if twice else "once",
        example=(f"{example.origin}: …{example.prompt[-100:]!r}",),
    )


def _inside(examples: Sequence[Example]) -> Finding | None:
    pairs = [
        (example, example.answer.strip())
        for example in examples
        if example.kind != "text" and len(example.answer.split()) >= _FEWEST_WORDS
    ]
    if len(pairs) < _FEWEST:
        return None
    at_end = [example for example, answer in pairs if example.prompt.rstrip().endswith(answer)]
    inside = [example for example, answer in pairs if answer in example.prompt]
    leaks = len(at_end) >= _MOST_AT_END * len(pairs)
    if not leaks and len(inside) < _MOST_INSIDE * len(pairs):
        return None
    hit = at_end if leaks else inside
    return from_page(
        "prompts-contain-answers",
        f"of {len(pairs):,} rows with answers of {_FEWEST_WORDS} words and more:",
        f"{share(len(inside), len(pairs))} are contained in the prompt, {len(at_end):,} of them at its end",
        case="at the end" if leaks else "anywhere",
        example=(f"{hit[0].origin}: …{hit[0].prompt[-120:]!r}", f"answer: {shown(hit[0].answer)}"),
    )


def check_cut_texts(examples: Sequence[Example]) -> Finding | None:
    """Look for one length, in characters or bytes, that many texts have and none exceeds."""
    if not examples or examples[0].kind == "text":  # plain text is often cut into pieces of one length, on purpose
        return None
    for what, texts in (
        ("answers", [(example, answer) for example in examples for answer in example.answers]),
        ("prompts", [(example, example.prompt) for example in examples]),
    ):
        for unit, lengths in (
            ("characters", [len(text) for _, text in texts]),
            ("bytes", [len(text.encode("utf-8", "surrogatepass")) for _, text in texts]),
        ):
            longest = max(lengths, default=0)
            # blanks at the cut are often stripped later
            hit = [pair for pair, length in zip(texts, lengths, strict=True) if longest - 1 <= length <= longest]
            if _is_cut(hit, longest, len(texts)):
                return _finding(what, unit, longest, hit, len(texts))
    return None


def _is_cut(hit: Sequence[tuple[Example, str]], longest: int, total: int) -> bool:
    if longest < _SHORTEST or len(hit) < max(_FEWEST_CUT, _MANY_CUT * total):
        return False
    words = [text for _, text in hit if " " in text.strip()]
    midway = [text for text in words if text.rstrip()[-1:] not in _CLOSED]
    # labels, hashes and numbers of one length are no texts; equal texts belong to another check
    return len(words) >= _NEARLY_ALL * len(hit) and len(midway) >= 0.8 * len(hit) and len(set(midway)) >= _FEWEST_CUT


def _finding(what: str, unit: str, longest: int, hit: Sequence[tuple[Example, str]], total: int) -> Finding:
    example, text = hit[0]
    return from_page(
        "texts-cut-at-length",
        f"{share(len(hit), total)} {what} have {longest:,} {unit} (or one less), and none has more",
        "they do not end with punctuation that ends a sentence",
        example=(f"{example.origin}: …{shown(text[-60:])}",),
        words={"what": what, "longest": f"{longest:,}", "unit": unit},
    )


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
    if own or len(text.split()) < _FEWEST_WORDS_OF_A_LANGUAGE:
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
        severity="warning" if len(hit) >= max(_FEWEST_MANY, _MANY_CHANGES * len(judged)) else "note",
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

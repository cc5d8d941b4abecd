"""Markers of chat templates, and special tokens, that stand in texts."""

from __future__ import annotations

import re

from distillab.doctor.batch.markers import FAMILIES

# Words of ordinary texts ("User: ") are no markers here.
_STRONG = [family for family in FAMILIES if family.markers or family.name == "Alpaca"]
_OWN = {
    family.name: "|".join(
        [
            family.prompt.pattern.decode(),
            family.answer.pattern.decode(),
            *(re.escape(m.decode()) for m in family.markers),
        ]
    )
    for family in _STRONG
}
_ENDS = r"</s>|<s>|<\|endoftext\|>|<\|end_of_text\|>|<\|begin_of_text\|>|<eos>|<bos>|<\|end\|>|<｜end▁of▁sentence｜>"
# one turn in words is ordinary text; a question and behind it an answer is a transcript
_TRANSCRIPT = r"\n\s*(?:User|Human): (?=[\s\S]{1,8000}?\n\s*(?:Assistant|AI|Bot): )"
_ANY = re.compile("|".join([*_OWN.values(), _ENDS, _TRANSCRIPT]))
_BY_FAMILY = {name: re.compile(pattern) for name, pattern in _OWN.items()}
_PROMPTS_AND_ANSWERS = [
    (family.name, re.compile(family.prompt.pattern.decode()), re.compile(family.answer.pattern.decode()))
    for family in _STRONG
]


def marker_in(text: str) -> str | None:
    """The first marker of a template, or end token in words, that a text holds."""
    found = _ANY.search(text)
    return found[0] if found else None


def family_of(text: str) -> str | None:
    """The family whose marker stands in a text, or "an end token"; None: none."""
    for name, pattern in _BY_FAMILY.items():
        if pattern.search(text):
            return name
    if re.search(_TRANSCRIPT, text):
        return "turns in words"
    return "an end token as text" if _ANY.search(text) else None


def rendered_by(prompt: str) -> str | None:
    """Return the family whose template a prompt has: it holds a prompt marker, and ends where an answer begins."""
    end = prompt.rstrip()
    for name, prompt_marker, answers in _PROMPTS_AND_ANSWERS:
        last = [match.end() for match in answers.finditer(end)]
        if last and last[-1] >= len(end) - 2 and prompt_marker.search(end):
            return name
    return None

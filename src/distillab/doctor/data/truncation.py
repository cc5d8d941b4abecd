"""Texts that a column of fixed width has cut: the longest are all equally long, and end midway."""

from __future__ import annotations

from collections.abc import Sequence

from distillab.data.examples import Example
from distillab.doctor.data.words import share, shown
from distillab.doctor.page import from_page
from distillab.records import Finding

_FEWEST, _MANY, _NEARLY_ALL = 5, 0.02, 0.9
_SHORTEST = 20
_CLOSED = frozenset(".!?…。！？\"')]}`>:;|")


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
    if longest < _SHORTEST or len(hit) < max(_FEWEST, _MANY * total):
        return False
    words = [text for _, text in hit if " " in text.strip()]
    midway = [text for text in words if text.rstrip()[-1:] not in _CLOSED]
    # labels, hashes and numbers of one length are no texts; equal texts belong to another check
    return len(words) >= _NEARLY_ALL * len(hit) and len(midway) >= 0.8 * len(hit) and len(set(midway)) >= _FEWEST


def _finding(what: str, unit: str, longest: int, hit: Sequence[tuple[Example, str]], total: int) -> Finding:
    example, text = hit[0]
    return from_page(
        "texts-cut-at-length",
        f"{share(len(hit), total)} {what} have {longest:,} {unit} (or one less), and none has more",
        "they do not end with punctuation that ends a sentence",
        example=(f"{example.origin}: …{shown(text[-60:])}",),
        words={"what": what, "longest": f"{longest:,}", "unit": unit},
    )

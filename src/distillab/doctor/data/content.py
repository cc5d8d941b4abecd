"""What stands in the texts: damaged characters, unknown tokens, markers of templates, answers inside prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerFast

from distillab.data.examples import Example
from distillab.data.rendering import Template
from distillab.doctor.checks import Checked, Scope, check, from_page
from distillab.doctor.data.damage import check_damage, check_escapes
from distillab.doctor.data.subject import EncodedPart
from distillab.doctor.data.words import ENCODINGS, around, family_of, marker_in, not_checked, rendered_by, share, shown
from distillab.records import Finding, Severity

_MANY = 0.01
_MUCH_UNKNOWN, _MOSTLY_UNKNOWN = 0.02, 0.5
_FEWEST = 20
_MOST_INSIDE, _MOST_AT_END = 0.5, 0.05
_FEWEST_WORDS = 4

_FEWEST_CUT, _MANY_CUT, _NEARLY_ALL = 5, 0.02, 0.9
_SHORTEST = 20
_CLOSED = frozenset(".!?…。！？\"')]}`>:;|")


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

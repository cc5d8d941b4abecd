"""Compare how two tokenizers split texts: normalisers, prefix spaces, merges, special tokens around a text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerFast

from distillab.pairing.loading import LoadedTokenizer
from distillab.pairing.probes import PROBES
from distillab.pairing.token_bytes import role_ids
from distillab.records import SideBySide

_MAX_SHOWN = 5
_DATA_PROBES = 100
_RULE_PROBES = 200


def side_by_side(teacher: PreTrainedTokenizerFast, student: PreTrainedTokenizerFast, text: str) -> SideBySide:
    """Tokenise one text with both tokenizers, with the special tokens that each adds."""
    read = [tokenizer(text, return_offsets_mapping=True) for tokenizer in (teacher, student)]
    teacher_ids, student_ids = (one["input_ids"] for one in read)
    cuts = [_cuts(one["offset_mapping"]) for one in read]
    return SideBySide(
        text=text,
        teacher_ids=tuple(teacher_ids),
        student_ids=tuple(student_ids),
        teacher_tokens=tuple(teacher.convert_ids_to_tokens(teacher_ids)),
        student_tokens=tuple(student.convert_ids_to_tokens(student_ids)),
        spans=tuple((cuts[0][end], cuts[1][end]) for end in sorted(cuts[0].keys() & cuts[1].keys())),
    )


def _cuts(offsets: Sequence[tuple[int, int]]) -> dict[int, int]:
    """Return the places in the text where tokens end, and how many tokens there are up to each.

    Beginnings say less: some tokenizers count a space before a word to it, and some do not. A special token is nowhere
    in the text (0, 0), and is where the token before it ends.
    """
    found: dict[int, int] = {}
    last = 0
    for number, (_, end) in enumerate(offsets, start=1):
        last = max(last, end)
        found[last] = number
    return found


def compare_segmentation(
    teacher: LoadedTokenizer, student: LoadedTokenizer, texts: Sequence[str], *, same_ids: bool
) -> tuple[tuple[SideBySide, ...], tuple[str, ...]]:
    """Return probe texts that the two split differently (at most 5, the shortest), and notes.

    Besides the fixed probes, the first 100 texts of the data are tried. If the ids are equal but the merges or scores
    differ, texts made from these are tried too, because few texts show a rule late in the list.
    """
    rule_texts, rule_note = _rule_probes(teacher.tokenizer, student.tokenizer) if same_ids else ((), ())
    tried = list(dict.fromkeys((*PROBES, *(t for t in texts[:_DATA_PROBES] if t), *rule_texts)))
    splits = zip(_split(teacher, tried), _split(student, tried), strict=True)
    differ = [text for text, (a, b) in zip(tried, splits, strict=True) if a != b]
    notes = list(rule_note)
    if differ and same_ids:
        notes.append(
            f"the same ids, but {len(differ)} of {len(tried)} probe texts are split differently, e.g. "
            f"{min(differ, key=len)!r}: the normaliser, the prefix space or the merges are not the same"
        )
    notes.extend(_around_notes(teacher.tokenizer, student.tokenizer))
    shown = sorted(differ, key=len)[:_MAX_SHOWN]
    return tuple(side_by_side(teacher.tokenizer, student.tokenizer, text) for text in shown), tuple(notes)


def _split(loaded: LoadedTokenizer, texts: Sequence[str]) -> list[list[tuple[str, bytes]]]:
    encoded = loaded.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return [[(loaded.meanings[i].kind, loaded.meanings[i].data) for i in ids] for ids in encoded]


def _rule_probes(
    teacher: PreTrainedTokenizerFast, student: PreTrainedTokenizerFast
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return texts made from the first merges or scored pieces that differ, and a note."""
    states = [tokenizer.backend_tokenizer.model.__getstate__() for tokenizer in (teacher, student)]
    if states[0] == states[1]:  # the usual case; reading 150,000 rules takes a second
        return (), ()
    teacher_rules, student_rules = (_rules(json.loads(state)) for state in states)
    if teacher_rules == student_rules:
        return (), ()
    first = next(
        (i for i, (a, b) in enumerate(zip(teacher_rules, student_rules, strict=False)) if a != b),
        min(len(teacher_rules), len(student_rules)),
    )
    window = [*teacher_rules[first : first + _RULE_PROBES], *student_rules[first : first + _RULE_PROBES]]
    decoded = (
        tokenizer.backend_tokenizer.decoder.decode([pieces]).strip()
        for tokenizer in (teacher, student)
        if tokenizer.backend_tokenizer.decoder is not None
        for pieces, _ in window
    )
    note = (
        f"the lists of merges or scores differ: {len(teacher_rules):,} and {len(student_rules):,} rules, the first "
        f"difference at rule {first}"
    )
    return tuple(text for text in decoded if text), (note,)


def _rules(model: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return the merges of BPE in order, or the scores of Unigram, each after its piece."""
    if model["type"] == "BPE":
        pairs = [tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(m) for m in model["merges"]]
        return [("".join(pair), pair) for pair in pairs]
    if model["type"] == "Unigram":
        return [(piece, score) for piece, score in model["vocab"]]
    return []


def _around_notes(teacher: PreTrainedTokenizerFast, student: PreTrainedTokenizerFast) -> tuple[str, ...]:
    """Return notes if only one tokenizer adds BOS before or EOS after a text."""
    notes: list[str] = []
    for role, position in (("bos", 0), ("eos", -1)):
        adds = [
            (ids := tokenizer("hello")["input_ids"])[position : position + 1 or None] == [role_ids(tokenizer).get(role)]
            and len(ids) > 1
            for tokenizer in (teacher, student)
        ]
        if adds[0] != adds[1]:
            notes.append(
                f"only the {'teacher' if adds[0] else 'student'}'s tokenizer puts {role.upper()} "
                f"{'in front of' if role == 'bos' else 'behind'} a text"
            )
    return tuple(notes)

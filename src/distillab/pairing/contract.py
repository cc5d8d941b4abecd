"""Two tokenizers -> TokenizerContract: do equal ids mean equal bytes, and what is the evidence?"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from distillab.errors import DataError
from distillab.pairing.loading import LoadedTokenizer
from distillab.pairing.notes import named, role_notes, template_notes, width_notes, would_train
from distillab.pairing.overlap import data_overlap
from distillab.pairing.probes import FIRST_SENTENCE, PROBES
from distillab.pairing.sample import SAMPLE, SAMPLE_SOURCE
from distillab.pairing.segmentation import compare_segmentation, side_by_side
from distillab.pairing.token_bytes import TokenMeaning, family, means_the_same, role_ids, token_meanings
from distillab.records import TokenizerContract, TokenizerInfo, Verdict

_MAX_EXTRA = 20
_MAX_SENTENCE = 120


@dataclass(frozen=True)
class _Ids:
    """What comparing id by id gives."""

    verdict: Verdict
    equal: int
    shared_width: int
    differing: list[int]
    extra_teacher: list[int]
    extra_student: list[int]


def compare_tokenizers(
    teacher: LoadedTokenizer,
    student: LoadedTokenizer,
    *,
    teacher_width: int | None,
    student_width: int | None,
    texts: Sequence[str] = (),
    source: str = "",
) -> TokenizerContract:
    """Compare two tokenizers, as they are loaded, and give the verdict with its evidence.

    Ids are equal where they mean the same: the same bytes of the same kind, the same special token, or special tokens
    with a role in common. What the verdict does not depend on (segmentation, BOS and EOS, chat template) is noted.

    Args:
        teacher_width, student_width: rows of the models' output layers; None where not known.
        texts: the data set's texts; the first sentence is shown side by side, the first 2,000 texts are measured. Where
            there are none, a small sample in many languages is measured.
        source: name of the data set in the record.
    Raises:
        DataError: a tokenizer has no tokens.
    """
    ours, theirs = token_meanings(teacher.tokenizer), token_meanings(student.tokenizer)
    for loaded, meanings in ((teacher, ours), (student, theirs)):
        if not meanings:
            raise DataError("The tokenizer has no tokens.", where=loaded.path)
    ids = _compare_ids(ours, theirs, teacher_width, student_width)
    teacher_words, student_words = teacher.tokenizer.get_vocab(), student.tokenizer.get_vocab()
    equal_strings = len(teacher_words.keys() & student_words.keys())
    example = side_by_side(teacher.tokenizer, student.tokenizer, _first_sentence(texts))
    probes_differ, segmentation_notes = compare_segmentation(
        teacher.tokenizer, student.tokenizer, ours, theirs, texts, same_ids=ids.verdict != "different"
    )
    teacher_side = _side(teacher, teacher_width, ours)
    student_side = _side(student, student_width, theirs)
    extra = [ours[i].data for i in ids.extra_teacher] + [theirs[i].data for i in ids.extra_student]
    if ids.verdict == "different":
        extra = []  # by id nothing is "more" here: every id of one side clashes with the other
    return TokenizerContract(
        verdict=ids.verdict,
        reason=_reason(ids, teacher_side, student_side, equal_strings, ours, theirs),
        teacher=teacher_side,
        student=student_side,
        equal_ids=ids.equal,
        equal_strings=equal_strings,
        equal_bytes=len(_sayable(ours) & _sayable(theirs)),
        shared_width=ids.shared_width,
        extra_tokens=tuple(data.decode("utf-8", "backslashreplace") for data in extra[:_MAX_EXTRA]),
        example=example,
        probes_differ=probes_differ,
        data=data_overlap(
            teacher.tokenizer, student.tokenizer, ours, theirs, texts or SAMPLE, source if texts else SAMPLE_SOURCE
        ),
        notes=(
            *width_notes(teacher_side, student_side, len(ours), len(theirs)),
            *role_notes(ours, theirs, teacher_side, student_side, same_ids=ids.verdict != "different"),
            *segmentation_notes,
            *template_notes(teacher_side, student_side),
        ),
        would_train=would_train(example, ours, theirs, ids.differing) if ids.verdict == "different" else (),
    )


def _compare_ids(
    ours: Sequence[TokenMeaning], theirs: Sequence[TokenMeaning], teacher_width: int | None, student_width: int | None
) -> _Ids:
    common = min(len(ours), len(theirs))
    differing = [i for i in range(common) if not means_the_same(ours[i], theirs[i])]
    gaps_teacher = [i for i in differing if theirs[i].kind == "unused"]
    gaps_student = [i for i in differing if ours[i].kind == "unused"]
    extra_teacher = gaps_teacher + [i for i in range(common, len(ours)) if ours[i].kind != "unused"]
    extra_student = gaps_student + [i for i in range(common, len(theirs)) if theirs[i].kind != "unused"]
    equal = sum(ours[i].kind != "unused" for i in range(common)) - len(differing) + len(gaps_student)
    clashes = len(differing) > len(gaps_teacher) + len(gaps_student)
    if clashes or (extra_teacher and extra_student):
        return _Ids("different", equal, 0, differing, extra_teacher, extra_student)
    shared = min([common, *differing[:1]])
    widths = [width for width in (teacher_width, student_width) if width is not None]
    verdict: Verdict = "identical"
    if extra_teacher or extra_student:
        verdict = "extended"
    elif len(set(widths)) > 1 or any(width > common for width in widths):
        verdict = "padded"
    return _Ids(verdict, equal, min([shared, *widths]), differing, extra_teacher, extra_student)


def _reason(
    ids: _Ids,
    teacher: TokenizerInfo,
    student: TokenizerInfo,
    equal_strings: int,
    ours: Sequence[TokenMeaning],
    theirs: Sequence[TokenMeaning],
) -> str:
    smaller = min(teacher.tokens, student.tokens)
    if ids.verdict == "identical":
        return f"All {smaller:,} ids mean the same bytes on both sides."
    if ids.verdict == "padded":
        return (
            f"All {smaller:,} ids mean the same bytes; the logits have {_rows(teacher)} (teacher) and "
            f"{_rows(student)} (student) rows, and those beyond the tokens are unused."
        )
    if ids.verdict == "extended":
        side, extra = ("teacher", ids.extra_teacher) if ids.extra_teacher else ("student", ids.extra_student)
        return f"The {ids.equal:,} common ids mean the same bytes; the {side} has {len(extra):,} tokens more."
    if ids.equal > 0.9 * smaller:
        first = min([*ids.differing, *ids.extra_teacher, *ids.extra_student])
        return (
            f"{ids.equal:,} of {teacher.tokens:,} (teacher) and {student.tokens:,} (student) ids mean the same, but "
            f"neither vocabulary contains the other: the first id that differs is {first}, the teacher's "
            f"{named(ours, first)} and the student's {named(theirs, first)}."
        )
    return (
        f"Equal ids mean different tokens: of {teacher.tokens:,} (teacher) and {student.tokens:,} (student) ids only "
        f"{ids.equal:,} ({ids.equal / smaller:.1%}) mean the same, although {equal_strings:,} token strings "
        f"({equal_strings / smaller:.1%}) stand in both vocabularies."
    )


def _rows(side: TokenizerInfo) -> str:
    return "an unknown number of" if side.logits_width is None else f"{side.logits_width:,}"


def _side(loaded: LoadedTokenizer, width: int | None, meanings: Sequence[TokenMeaning]) -> TokenizerInfo:
    template = loaded.tokenizer.chat_template
    return TokenizerInfo(
        name=loaded.name,
        family=family(loaded.tokenizer),
        tokens=sum(meaning.kind != "unused" for meaning in meanings),
        logits_width=width,
        roles=role_ids(loaded.tokenizer),
        fingerprint=fingerprint(loaded, meanings),
        chat_template_sha256=None if template is None else _sha256(json.dumps(template, sort_keys=True).encode()),
        loading_notes=loaded.notes,
    )


def fingerprint(loaded: LoadedTokenizer, meanings: Sequence[TokenMeaning]) -> str:
    """sha256 over id -> meaning, the ids of the roles, and the ids of the probe texts with special tokens."""
    digest = hashlib.sha256()
    for meaning in meanings:
        digest.update(f"{meaning.kind}:{len(meaning.data)}:".encode() + meaning.data)
    digest.update(json.dumps(role_ids(loaded.tokenizer), sort_keys=True).encode())
    digest.update(json.dumps(loaded.tokenizer(list(PROBES))["input_ids"]).encode())
    return digest.hexdigest()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _sayable(meanings: Sequence[TokenMeaning]) -> set[bytes]:
    return {meaning.data for meaning in meanings if meaning.kind in ("text", "byte")}


def _first_sentence(texts: Sequence[str]) -> str:
    text = next((text.strip() for text in texts if text.strip()), FIRST_SENTENCE)
    sentence = re.split(r"(?<=[.!?])\s|\n", text, maxsplit=1)[0]
    return sentence[:_MAX_SENTENCE]

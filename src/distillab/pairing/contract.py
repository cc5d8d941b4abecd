"""Compare two tokenizers: do equal ids mean equal bytes, and what is the evidence?"""

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
from distillab.pairing.token_bytes import TokenMeaning, family, means_the_same, role_ids
from distillab.records import TokenizerContract, TokenizerInfo, Verdict

_MAX_EXTRA = 20
_MAX_SENTENCE = 120


@dataclass(frozen=True)
class _Ids:
    """Result of comparing id by id."""

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
    """Compare two loaded tokenizers and return the verdict with its evidence.

    Ids are equal if they stand for the same bytes of the same kind, the same special token, or special tokens with a
    common role. Differences that do not change the verdict (segmentation, BOS and EOS, chat template) become notes.

    Args:
        teacher_width, student_width: rows of the models' output layers; None if unknown.
        texts: texts of the data set: the first sentence is shown in both tokenizers, the first 2,000 texts are
            measured. Without texts a small multilingual sample is measured.
        source: name of the data set in the record.
    Raises:
        DataError: a tokenizer has no tokens.
    """
    for loaded in (teacher, student):
        if not loaded.meanings:
            raise DataError("The tokenizer has no tokens.", where=loaded.path)
    ids = _compare_ids(teacher.meanings, student.meanings, teacher_width, student_width)
    same_ids = ids.verdict != "different"
    teacher_words, student_words = teacher.tokenizer.get_vocab(), student.tokenizer.get_vocab()
    equal_strings = len(teacher_words.keys() & student_words.keys())
    example = side_by_side(teacher.tokenizer, student.tokenizer, _first_sentence(texts))
    probes_differ, segmentation_notes = compare_segmentation(teacher, student, texts, same_ids=same_ids)
    teacher_info, student_info = _info(teacher, teacher_width), _info(student, student_width)
    extra: list[bytes] = []  # if every id clashes, no token is "extra"
    if same_ids:
        extra += [teacher.meanings[i].data for i in ids.extra_teacher]
        extra += [student.meanings[i].data for i in ids.extra_student]
    return TokenizerContract(
        verdict=ids.verdict,
        reason=_reason(ids, teacher_info, student_info, equal_strings, teacher.meanings, student.meanings),
        teacher=teacher_info,
        student=student_info,
        equal_ids=ids.equal,
        equal_strings=equal_strings,
        equal_bytes=len(_token_strings(teacher.meanings) & _token_strings(student.meanings)),
        shared_width=ids.shared_width,
        extra_tokens=tuple(data.decode("utf-8", "backslashreplace") for data in extra[:_MAX_EXTRA]),
        example=example,
        probes_differ=probes_differ,
        data=data_overlap(teacher, student, texts or SAMPLE, source if texts else SAMPLE_SOURCE),
        notes=(
            *width_notes(teacher_info, student_info, len(teacher.meanings), len(student.meanings)),
            *role_notes(teacher.meanings, student.meanings, teacher_info, student_info, same_ids=same_ids),
            *segmentation_notes,
            *template_notes(teacher_info, student_info),
        ),
        would_train=would_train(example, teacher.meanings, student.meanings, ids.differing)
        if ids.verdict == "different"
        else (),
    )


def _compare_ids(
    teacher_meanings: Sequence[TokenMeaning],
    student_meanings: Sequence[TokenMeaning],
    teacher_width: int | None,
    student_width: int | None,
) -> _Ids:
    common = min(len(teacher_meanings), len(student_meanings))
    differing = [i for i in range(common) if not means_the_same(teacher_meanings[i], student_meanings[i])]
    gaps_teacher = [i for i in differing if student_meanings[i].kind == "unused"]
    gaps_student = [i for i in differing if teacher_meanings[i].kind == "unused"]
    extra_teacher = gaps_teacher + [
        i for i in range(common, len(teacher_meanings)) if teacher_meanings[i].kind != "unused"
    ]
    extra_student = gaps_student + [
        i for i in range(common, len(student_meanings)) if student_meanings[i].kind != "unused"
    ]
    equal = sum(teacher_meanings[i].kind != "unused" for i in range(common)) - len(differing) + len(gaps_student)
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
    teacher_meanings: Sequence[TokenMeaning],
    student_meanings: Sequence[TokenMeaning],
) -> str:
    smaller = min(teacher.tokens, student.tokens)
    if ids.verdict == "identical":
        return f"All {smaller:,} ids mean the same bytes in both tokenizers."
    if ids.verdict == "padded":
        return (
            f"All {smaller:,} ids mean the same bytes; the logits have {_rows(teacher)} (teacher) and "
            f"{_rows(student)} (student) rows, and those beyond the tokens are unused."
        )
    if ids.verdict == "extended":
        role, extra = ("teacher", ids.extra_teacher) if ids.extra_teacher else ("student", ids.extra_student)
        return f"The {ids.equal:,} common ids mean the same bytes; the {role} has {len(extra):,} more tokens."
    if ids.equal > 0.9 * smaller:
        first = min([*ids.differing, *ids.extra_teacher, *ids.extra_student])
        return (
            f"{ids.equal:,} of {teacher.tokens:,} (teacher) and {student.tokens:,} (student) ids mean the same, but "
            f"neither vocabulary contains the other: the first id that differs is {first}, the teacher's "
            f"{named(teacher_meanings, first)} and the student's {named(student_meanings, first)}."
        )
    return (
        f"Equal ids mean different tokens: of {teacher.tokens:,} (teacher) and {student.tokens:,} (student) ids only "
        f"{ids.equal:,} ({ids.equal / smaller:.1%}) mean the same, although {equal_strings:,} token strings "
        f"({equal_strings / smaller:.1%}) are in both vocabularies."
    )


def _rows(info: TokenizerInfo) -> str:
    return "an unknown number of" if info.logits_width is None else f"{info.logits_width:,}"


def _info(loaded: LoadedTokenizer, width: int | None) -> TokenizerInfo:
    template = loaded.tokenizer.chat_template
    return TokenizerInfo(
        name=loaded.name,
        family=family(loaded.tokenizer),
        tokens=sum(meaning.kind != "unused" for meaning in loaded.meanings),
        logits_width=width,
        roles=role_ids(loaded.tokenizer),
        fingerprint=fingerprint(loaded),
        chat_template_sha256=None if template is None else _sha256(json.dumps(template, sort_keys=True).encode()),
        loading_notes=loaded.notes,
    )


def fingerprint(loaded: LoadedTokenizer) -> str:
    """Return the SHA-256 of id -> meaning, the ids of the roles, and the ids of the probe texts with special tokens."""
    digest = hashlib.sha256()
    for meaning in loaded.meanings:
        digest.update(f"{meaning.kind}:{len(meaning.data)}:".encode() + meaning.data)
    digest.update(json.dumps(role_ids(loaded.tokenizer), sort_keys=True).encode())
    digest.update(json.dumps(loaded.tokenizer(list(PROBES))["input_ids"]).encode())
    return digest.hexdigest()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _token_strings(meanings: Sequence[TokenMeaning]) -> set[bytes]:
    return {meaning.data for meaning in meanings if meaning.kind in ("text", "byte")}


def _first_sentence(texts: Sequence[str]) -> str:
    text = next((text.strip() for text in texts if text.strip()), FIRST_SENTENCE)
    sentence = re.split(r"(?<=[.!?])\s|\n", text, maxsplit=1)[0]
    return sentence[:_MAX_SENTENCE]

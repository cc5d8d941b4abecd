"""Where two tokenizers cut the same text."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from distillab.pairing.loading import LoadedTokenizer
from distillab.pairing.segmentation import side_by_side


def _written(loaded: LoadedTokenizer, ids: tuple[int, ...]) -> bytes:
    """The bytes that some ids write, without special tokens and without the space that is put in front."""
    return b"".join(loaded.meanings[i].data for i in ids if loaded.meanings[i].kind != "special").lstrip(b" ")


@pytest.mark.parametrize(
    "text", ["Paris is the capital of France, isn't it?", "naïve 你好 🙂 café", "a  b\n\n  c", "12345 678"]
)
def test_spans_end_where_both_have_written_the_same(real: Callable[[str], LoadedTokenizer], text: str) -> None:
    teacher, student = real("gpt2"), real("tinyllama-1.1b")
    found = side_by_side(teacher.tokenizer, student.tokenizer, text)

    def ends(loaded: LoadedTokenizer, ids: tuple[int, ...]) -> dict[bytes, int]:
        return {_written(loaded, ids[:n]): n for n in range(1, len(ids) + 1)}

    both = ends(teacher, found.teacher_ids), ends(student, found.student_ids)
    common = [part for part in both[0] if part in both[1] and part]
    whole = [part for part in common if not _is_cut(part)]
    for part in whole:
        assert (both[0][part], both[1][part]) in found.spans
    assert found.spans[-1] == (len(found.teacher_ids), len(found.student_ids))
    assert all(a < c and b < d for (a, b), (c, d) in pairwise(found.spans))


def _is_cut(part: bytes) -> bool:
    """Whether it ends inside of a character, or in a space, which a tokenizer can count to the next token."""
    return part.decode(errors="replace").endswith(("\ufffd", " ", "\n"))

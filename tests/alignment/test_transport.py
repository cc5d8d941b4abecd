"""Counting what the student's tokenizer writes, against a loop over bytes; the map of the counts; files of counts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from distillab.alignment.plan import span_numbers
from distillab.alignment.projection import VocabularyProjection
from distillab.alignment.spans import SpanAligner
from distillab.alignment.tables import TEXT
from distillab.alignment.transport import FORMAT, TransportCounter, TransportCounts
from distillab.errors import DataError, ShapeError, TokenizerMismatch
from tests.alignment.conftest import Side

Real = Callable[[str], Side]
Built = Callable[[str, str], VocabularyProjection]
PAIRS = [("mistral-7b-v0.1", "tinyllama-1.1b"), ("gpt2", "tok512"), ("tok512", "gpt2"), ("tinyllama-1.1b", "qwen-like")]
TEXTS = ["The quick brown fox.", "It was 12 + 345 = 357, naïve café\n\n  def f(x):", "快速 😀 fox", " there there", "a"]


def counted(teacher: Side, student: Side, texts: Sequence[str], *, shards: int = 1) -> TransportCounts:
    """Through the aligner, as a run counts; the texts in so many parts that are merged."""
    parts = []
    for shard in range(shards):
        some = texts[shard::shards]
        ours, theirs = student.all_ids(some), teacher.all_ids(some)
        aligner = SpanAligner(student=student.table, teacher=teacher.table, differing="leave_out")
        counter = TransportCounter(student.table, teacher.table, **facts(teacher, student))
        for plan, own, other in zip(aligner.rows(ours, theirs), ours, theirs, strict=True):
            counter.add(
                (own.astype(np.int64), span_numbers(plan.student, len(own))),
                (other.astype(np.int64), span_numbers(plan.teacher, len(other))),
            )
        parts.append(counter.counts())
    return parts[0].merged(parts[1:])


def facts(teacher: Side, student: Side) -> dict[str, int | str]:
    return {
        "teacher_width": len(teacher.meanings),
        "student_width": len(student.meanings),
        "teacher_fingerprint": "t",
        "student_fingerprint": "s",
    }


def as_counter(counts: TransportCounts) -> Counter[tuple[int, int, int]]:
    found = zip(counts.teacher_ids.tolist(), counts.offsets.tolist(), counts.student_ids.tolist(), strict=True)
    return Counter(dict(zip(found, counts.counts.tolist(), strict=True)))


def by_bytes(teacher: Side, student: Side, texts: Sequence[str]) -> Counter[tuple[int, int, int]]:
    """Byte by byte, from the ids alone; of texts that both spell alike, but for one prefix space in front."""
    found: Counter[tuple[int, int, int]] = Counter()
    for text in texts:
        ours, theirs = (
            [(id_, len(side.meanings[id_].data)) for id_ in side.ids(text).tolist()] for side in (student, teacher)
        )
        lengths = [sum(n for _, n in side) for side in (ours, theirs)]
        covers = [(id_, k) for id_, n in theirs for k in range(n)]
        # the two ends agree: a place is counted from there
        begins = {at - lengths[1] for at, (_, k) in enumerate(covers) if k == 0}
        at, counts = -lengths[0], lengths[0] == lengths[1]
        for id_, n in ours:
            # a prefix space is not counted, nor anything up to the first border that both share
            counts = counts or (at > -min(lengths) and at in begins)
            if counts:
                found[(*covers[at + lengths[1]], id_)] += 1
            at += n
    return found


@pytest.mark.parametrize(("teacher", "student"), PAIRS)
def test_counts_are_those_of_a_loop_over_bytes(teacher: str, student: str, real: Real, materials: Path) -> None:
    ours, theirs = real(student), real(teacher)
    lines = (materials / "text/gsm8k/train.jsonl").read_text(encoding="utf-8").splitlines()[:40]
    texts = [*TEXTS, *(json.loads(line)["question"] for line in lines)]
    spelled = [
        [b"".join(side.meanings[id_].data for id_ in side.ids(text).tolist()) for text in texts]
        for side in (ours, theirs)
    ]
    alike = [
        text
        for text, one, other in zip(texts, *spelled, strict=True)
        if one == other or b" " + one == other or one == b" " + other
    ]
    assert len(alike) > 30
    found = as_counter(counted(theirs, ours, alike))
    special = {key for key in found if theirs.table.kinds[key[0]] != TEXT}
    assert all(key[1] == 0 and ours.table.kinds[key[2]] != TEXT for key in special)
    assert {key: n for key, n in found.items() if key not in special} == dict(by_bytes(theirs, ours, alike))


def test_a_prefix_space_of_one_side_is_not_counted(real: Real) -> None:
    found = as_counter(counted(real("gpt2"), real("tinyllama-1.1b"), ["The fox", "The fox"]))
    names = {(real("gpt2").meanings[v].data, k, real("tinyllama-1.1b").meanings[u].data) for v, k, u in found}
    assert names == {(b" fox", 0, b" fo"), (b" fox", 3, b"x")}


@pytest.mark.parametrize("shards", [2, 3, 5])
def test_shards_merged_are_all_texts_counted_at_once(shards: int, real: Real) -> None:
    sides = real("gpt2"), real("tok512")
    whole, parts = counted(*sides, TEXTS), counted(*sides, TEXTS, shards=shards)
    assert as_counter(whole) == as_counter(parts) and whole.fingerprint == parts.fingerprint


_ENTRIES = st.dictionaries(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 4)), st.integers(1, 9))


def made(entries: dict[tuple[int, int, int], int], **other: int | str) -> TransportCounts:
    keys = sorted((v << 38) | (k << 22) | u for v, k, u in entries)
    ordered = sorted(entries.items())
    given = {"teacher_width": 4, "student_width": 5, "teacher_fingerprint": "t", "student_fingerprint": "s", **other}
    return TransportCounts(np.array(keys, np.int64), np.array([n for _, n in ordered], np.int64), **given)  # type: ignore[arg-type]


@settings(max_examples=50, deadline=None)
@given(parts=st.lists(_ENTRIES, min_size=3, max_size=3))
def test_merging_is_adding_in_any_order(parts: list[dict[tuple[int, int, int], int]]) -> None:
    a, b, c = map(made, parts)
    expected = sum((Counter(part) for part in parts), Counter())
    ways = [a.merged([b, c]), a.merged([b.merged([c])]), c.merged([a]).merged([b])]
    assert all(as_counter(way) == expected for way in ways)
    assert len({way.fingerprint for way in ways}) == 1


def identity(width: int, *, student: int | None = None, missing: Sequence[int] = ()) -> VocabularyProjection:
    kept = [id_ for id_ in range(width) if id_ not in missing]
    return VocabularyProjection(
        row_ends=np.cumsum([0, *(id_ not in missing for id_ in range(width))]).astype(np.int64),
        student_ids=np.array(kept, dtype=np.int64),
        weights=np.ones(len(kept), dtype=np.float32),
        how=np.array([0 if id_ not in missing else 3 for id_ in range(width)], dtype=np.uint8),
        student_width=student or width,
        teacher_fingerprint="t",
        student_fingerprint="s",
    )


@settings(max_examples=50, deadline=None)
@given(entries=_ENTRIES, prior=st.floats(0.01, 10))
def test_the_kernel_is_the_formula(entries: dict[tuple[int, int, int], int], prior: float) -> None:
    kernel = made(entries).kernel(identity(4, student=5, missing=[3]), prior=prior)
    for v in range(4):
        n = [entries.get((v, 0, u), 0) for u in range(5)]
        weights = [count + (prior if u == v and v != 3 else 0) for u, count in enumerate(n)]
        found = {mapped.student_id: mapped.weight for mapped in kernel.describe(v)}
        assert found == pytest.approx({u: w / sum(weights) for u, w in enumerate(weights) if w}, rel=1e-6)
        shares = made(entries).row(v, 0, fallback=None if v == 3 else v, prior=prior)
        assert {one.student_id: one.share for one in shares} == pytest.approx(found, rel=1e-6)
        assert {one.student_id: one.times for one in shares if one.times} == {u: c for u, c in enumerate(n) if c}
    assert made(entries).row(0, 1, fallback=None, prior=prior) == sorted(
        made(entries).row(0, 1, fallback=None, prior=prior), key=lambda one: -one.share
    )


@settings(max_examples=50, deadline=None)
@given(entries=_ENTRIES, prior=st.floats(0.01, 10))
def test_the_map_back_is_the_formula(entries: dict[tuple[int, int, int], int], prior: float) -> None:
    """The teacher writes 0 where the student writes 0 or 1; of the rest nothing is known but that 2 begins with 4."""
    back = np.array([0, 0, -1, -1, -1])
    found = made(entries).outcomes(np.array([0, -1, 4, -1]), back, prior=prior)
    counted = {v for (v, k, _) in entries if k == 0}
    for u in range(5):
        weights = {v: float(entries.get((v, 0, u), 0)) for v in range(4)}
        weights[0] += prior * (back[u] == 0)
        weights[2] += prior * (u == 4 and 2 not in counted)
        expected = {v: weight / sum(weights.values()) for v, weight in weights.items() if weight}
        assert {mapped.student_id: mapped.weight for mapped in found.describe(u)} == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["gpt2", "tok512", "tinyllama-1.1b"])
def test_with_one_tokenizer_the_kernel_is_the_identity(name: str, real: Real, built: Built) -> None:
    kernel = counted(real(name), real(name), TEXTS).kernel(built(name, name), prior=2.0)
    used = np.flatnonzero(np.diff(kernel.row_ends))
    assert len(used) > 0.9 * kernel.teacher_width
    assert np.array_equal(kernel.student_ids, used) and (kernel.weights == 1).all()


@pytest.mark.parametrize(("teacher", "student"), PAIRS)
def test_rows_of_a_kernel_sum_to_one(teacher: str, student: str, real: Real, built: Built) -> None:
    kernel = counted(real(teacher), real(student), TEXTS).kernel(built(teacher, student), prior=2.0)
    sums = np.add.reduceat(np.append(kernel.weights, 0), kernel.row_ends[:-1])[np.diff(kernel.row_ends) > 0]
    np.testing.assert_allclose(sums, 1.0, atol=1e-6)


def test_counts_are_saved_and_read(tmp_path: Path) -> None:
    counts = made({(0, 1, 2): 3, (3, 2, 4): 1})
    counts.save(tmp_path / "c")
    again = TransportCounts.load(tmp_path / "c")
    assert as_counter(again) == as_counter(counts) and again.fingerprint == counts.fingerprint


_METADATA = {
    "format": FORMAT,
    "teacher_width": "4",
    "student_width": "5",
    "teacher_fingerprint": "t",
    "student_fingerprint": "s",
}


@pytest.mark.parametrize(
    ("arrays", "metadata"),
    [
        ({"keys": [1, 1], "counts": [1, 1]}, {}),  # no key twice
        ({"keys": [-1], "counts": [1]}, {}),
        ({"keys": [5], "counts": [1]}, {}),  # student id 5 of 5
        ({"keys": [4 << 38], "counts": [1]}, {}),  # teacher id 4 of 4
        ({"keys": [1], "counts": [0]}, {}),
        ({"keys": [1], "counts": [1, 1]}, {}),
        ({"keys": [[1]], "counts": [[1]]}, {}),
        ({"keys": [1], "counts": [1 << 60]}, {}),
        ({"keys": [1]}, {}),
        ({"keys": [1], "counts": [1]}, {"teacher_width": "many"}),
        ({"keys": [1], "counts": [1]}, {"student_width": "99999999999"}),
        ({"keys": [1], "counts": [1]}, {"format": "another"}),
    ],
)
def test_a_damaged_file_is_refused(arrays: dict[str, list[int]], metadata: dict[str, str], tmp_path: Path) -> None:
    tensors = {name: np.array(values, dtype=np.int64) for name, values in arrays.items()}
    save_file(tensors, tmp_path / "c", _METADATA | metadata)
    with pytest.raises(DataError, match="no counts"):
        TransportCounts.load(tmp_path / "c")


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(b"\xff" * 64)
    for path in (tmp_path / "c", tmp_path / "missing"):
        with pytest.raises(DataError, match="no counts"):
            TransportCounts.load(path)


def test_counts_of_other_tokenizers_are_refused() -> None:
    counts = made({(0, 0, 1): 1})
    with pytest.raises(TokenizerMismatch, match="cannot be added"):
        counts.merged([made({}, student_fingerprint="another")])
    with pytest.raises(TokenizerMismatch, match="other tokenizers"):
        made({}, teacher_width=7).kernel(identity(4, student=5), prior=2.0)
    with pytest.raises(ShapeError, match="ascending"):
        made({(0, 0, 1): 0})

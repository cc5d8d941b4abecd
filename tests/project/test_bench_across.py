"""The steps over two tokenisations measure what they say: the same rows, the same step, every term."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from bench import across_steps, pair, table
from bench.across_steps import TERMS, TextPair, examples_of, text_pair, train_on
from bench.measure import MIB, Probe
from bench.settings import ACROSS, ACROSS_BASE, CASES, SIZES, Run, Side, Size

from distillab.config.terms import MergedSpansConfig, TermConfig
from distillab.data.examples import Example, pair_example
from distillab.data.reading import Reader, load_reader

# the tiny world's tokenizers have 400 ids, and its answers 6 to 22 tokens
SIZE = Size(teacher=Side(32, 2, 2, 48), student=Side(16, 1, 2, 24), vocabulary=400, batch=2, length=32)
AS_THE_BASE = ("vocabulary_projection", "vocabulary_projection_common", "merged_spans")
RUN = Run("", size="tiny-text", warmup=0, steps=2)


@pytest.fixture(autouse=True)
def _one_thread_and_a_tiny_size(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(SIZES, "tiny-text", SIZE)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def readers(tiny_world: dict[str, Any], stranger: str) -> tuple[Reader, Reader]:
    """The student's, and that of a teacher with other tokens."""
    ours, theirs = (
        load_reader(path, revision=None, template="auto", kind="pair", max_tokens=SIZE.length)
        for path in (tiny_world["student"]["path"], stranger)
    )
    return ours, theirs


@pytest.fixture
def examples(tiny_world: dict[str, Any]) -> list[Example]:
    path = Path(tiny_world["data"]["train"]["path"])
    rows = path.read_text(encoding="utf-8").replace('"prompt"', '"question"').splitlines()
    renamed = path.with_name("questions.jsonl")
    renamed.write_text("\n".join(rows), encoding="utf-8")
    return list(examples_of(renamed))


def _losses(case: str, text: TextPair) -> list[float]:
    probe = Probe(RUN.warmup, RUN.steps)
    train_on(replace(RUN, case=case), probe, text)
    assert len(probe.measured) == RUN.steps
    return probe.losses


def test_the_rows_are_the_first_whose_answers_fill_a_step(
    readers: tuple[Reader, Reader], examples: list[Example]
) -> None:
    text = text_pair(SIZE, *readers, iter(examples))
    fitting = []
    for example in examples:
        ours, theirs = (reader.encoder.encode_all([example], source="t").rows for reader in readers)
        sizes = [int(row.answer_mask.sum()) for row in ours]
        if ours and theirs and 14 <= sizes[0] <= 18 and not ours[0].truncated and not theirs[0].truncated:
            fitting.append(example.key)
    assert [row.student.key for row in text.rows] == fitting[:2]
    assert [row.teacher.key for row in text.rows] == fitting[:2]
    assert text.counts.student_tokens == sum(int(row.student.answer_mask.sum()) for row in text.rows)
    assert text.counts.teacher_tokens == sum(int(row.teacher.answer_mask.sum()) for row in text.rows)
    assert any(not np.array_equal(row.student.input_ids, row.teacher.input_ids) for row in text.rows)
    with pytest.raises(ValueError, match="0 of 2 rows"):
        text_pair(SIZE, *readers, iter([pair_example("k", "f:1", instruction="a", context="", answer="b")]))


def test_the_base_is_forward_kl_of_the_same_rows_in_the_student_s_tokens(
    readers: tuple[Reader, Reader], examples: list[Example]
) -> None:
    text = text_pair(SIZE, *readers, iter(examples))
    models = [make(SIZE).eval() for make in (pair.student_of, pair.teacher_of)]
    total = count = 0.0
    for row in text.rows:
        ids = torch.tensor(row.student.input_ids).long()[None]
        with torch.no_grad():
            q, p = (model(ids).logits[0].double().log_softmax(-1) for model in models)
        for place in np.flatnonzero(row.student.answer_mask):
            total += float((p[place - 1].exp() * (p[place - 1] - q[place - 1])).sum())
            count += 1
    assert _losses(ACROSS_BASE, text)[0] == pytest.approx(total / count, rel=1e-5)


def test_with_one_tokenizer_on_both_sides_the_steps_are_those_of_the_base(
    readers: tuple[Reader, Reader], examples: list[Example]
) -> None:
    text = text_pair(SIZE, readers[0], readers[0], iter(examples))
    expected = _losses(ACROSS_BASE, text)
    for case in AS_THE_BASE:
        assert _losses(case, text) == pytest.approx(expected, rel=1e-5), case


# the others take theirs above
@pytest.mark.parametrize("case", [case for case in ACROSS if case not in (ACROSS_BASE, *AS_THE_BASE)])
def test_every_case_takes_its_steps(case: str, readers: tuple[Reader, Reader], examples: list[Example]) -> None:
    probe = Probe(RUN.warmup, RUN.steps)
    text = text_pair(SIZE, *readers, iter(examples))
    train_on(replace(RUN, case=case), probe, text)
    assert len(probe.losses) == 2 and all(math.isfinite(loss) and loss > 0 for loss in probe.losses)
    assert probe.facts["tokens"] == sum(len(row.student) for row in text.rows)
    assert probe.facts["supervised"] == text.counts.student_tokens


def test_every_term_on_two_tokenisations_has_a_case() -> None:
    union, _ = get_args(TermConfig)
    wanted = {kind.model_fields["kind"].default for kind in get_args(union) if kind.tokens == "aligned"}
    assert {term.kind for case, term in TERMS.items() if case != ACROSS_BASE} == wanted
    assert set(TERMS) == set(ACROSS) and all(CASES[case] == "bench.across_steps:train_across" for case in ACROSS)
    assert isinstance(TERMS["merged_spans"], MergedSpansConfig)


def test_the_table_sets_them_beside_the_base_and_judges_the_targets() -> None:
    records = [
        {
            "block": "B",
            "round": 1,
            "case": case,
            "size": "small",
            "threads": 1,
            "allocator": "default",
            "tokens": 1000,
            "steps_s": [{"wall_s": s, "user_s": s, "sys_s": 0.0}],
            "training_bytes": 10 * MIB,
            "peak_reset": True,
            "machine": {"cpu": "X", "load": "0.5"},
            "versions": {"torch": "2"},
            "commit": "abc",
        }
        for case, s in ((ACROSS_BASE, 1.0), ("span_likelihood", 1.25), ("vocabulary_projection", 1.5))
    ]
    text = table.report(records)
    assert "| × same_tokens |" in text and "floor" not in text
    assert "| span_likelihood | 1.250 (1.250, 1.250) | 0.000 | 1.250 | 800 | 1.25 |  | 10 |" in text
    assert "| span_likelihood / same_tokens, cpu, malloc default | ≤ 1.30 | 1.25 | yes |" in text
    assert "| vocabulary_projection / same_tokens, cpu, malloc default | ≤ 1.30 | 1.50 | no |" in text


def test_the_real_rows_have_about_as_many_scored_tokens_as_the_other_blocks(materials: Path) -> None:
    size = SIZES["small"]
    ours, theirs = (
        load_reader(
            str(materials / "tokenizers" / name),
            revision=None,
            template="auto",
            kind="pair",
            max_tokens=size.row_length,
        )
        for name in (across_steps.STUDENT, across_steps.TEACHER)
    )
    text = text_pair(size, ours, theirs, examples_of(materials / "text" / "gsm8k" / "train.jsonl"))
    assert len(text.rows) == 8
    assert text.counts.student_tokens == pytest.approx(1024, rel=0.05)
    assert text.counts.spans > text.counts.one_to_one > 0

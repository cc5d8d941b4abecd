"""The permutation test, on tensors: what a signal is taken for."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.doctor.pair_samples import TEACHER, found, model_of, reader_of, stories

from distillab.doctor import audit_signal
from distillab.doctor.pair.measures import permutation_test, relabelling_test
from distillab.errors import DataError, ShapeError

ROWS, LENGTH = 24, 64


@pytest.fixture(scope="module")
def asked(materials):
    """(B, L, W) logits of a real teacher and the (B, L) ids that it read."""
    reader = reader_of(materials / "models" / TEACHER)
    rows = [reader.encoder.encode(example) for example in stories(materials)]
    ids = torch.stack([torch.from_numpy(row.input_ids[:LENGTH]).long() for row in rows if len(row) >= LENGTH][:ROWS])
    with torch.no_grad():
        return model_of(materials, TEACHER)(ids).logits, ids


def named(result) -> dict[str, str]:
    return {id_: finding.severity for id_, finding in found([result]).items()}


def test_a_signal_that_fits(asked):
    logits, ids = asked
    result = audit_signal(logits, ids, logits)
    assert result.skipped is None and not result.findings
    assert "p = 0.002" in result.scope


@pytest.mark.parametrize("steps", [1, -1, 2])
def test_a_signal_that_is_shifted(asked, steps):
    logits, ids = asked
    result = audit_signal(logits.roll(steps, dims=1), ids, own=asked)
    assert named(result) == {"teacher-signal-shifted": "error"}
    assert f"offset {steps:+d}" in result.findings[0].explanation


def test_a_teacher_that_pads_on_the_other_side(asked):
    """The rows' signals are some positions away, each by its own padding."""
    logits, ids = asked
    moved = torch.stack([row.roll(2 + 17 * number % 45, dims=0) for number, row in enumerate(logits)])
    assert named(audit_signal(moved, ids, own=asked)) == {"teacher-signal-unrelated": "error"}


def test_without_proof_that_the_teacher_knows_the_text_a_shift_by_one_may_be_repetition(asked):
    logits, ids = asked
    assert named(audit_signal(logits.roll(1, dims=1), ids)) == {"teacher-signal-shifted": "warning"}


def test_a_signal_of_other_rows(asked):
    logits, ids = asked
    result = audit_signal(logits.roll(1, dims=0), ids)
    assert named(result) == {"teacher-signal-of-other-rows": "error"}
    assert f"{ROWS} of {ROWS}" in " ".join(result.findings[0].evidence)


def test_a_signal_of_shuffled_positions(asked):
    logits, ids = asked
    order = torch.randperm(LENGTH, generator=torch.Generator().manual_seed(0))
    result = audit_signal(logits[:, order], ids, own=asked)
    assert named(result) == {"teacher-signal-unrelated": "error"}
    assert "look at positions and rows first" in result.findings[0].explanation
    assert named(audit_signal(logits[:, order], ids)) == {"teacher-signal-unrelated": "warning"}


def test_a_signal_of_another_vocabulary(asked):
    logits, ids = asked
    renamed = torch.randperm(512, generator=torch.Generator().manual_seed(0))
    result = audit_signal(logits[..., renamed], ids, own=asked)
    assert named(result) == {"teacher-signal-unrelated": "error"}
    assert "are other tokens" in result.findings[0].explanation


def test_the_students_signals_are_told_beside(asked):
    logits, ids = asked
    order = torch.randperm(LENGTH, generator=torch.Generator().manual_seed(0))
    evidence = " ".join(audit_signal(logits[:, order], ids, logits, own=asked).findings[0].evidence)
    assert "KL(teacher ‖ student)" in evidence and "same top-1 token" in evidence


def test_a_teacher_that_says_nothing_cannot_be_judged(asked):
    _, ids = asked
    result = audit_signal(torch.zeros(*ids.shape, 512), ids)
    assert "nearly the same at every position" in result.skipped


def test_too_few_tokens_cannot_be_judged(asked):
    logits, ids = asked
    mask = torch.zeros_like(ids, dtype=torch.bool)
    mask[:, 5] = True
    assert "too few" in audit_signal(logits, ids, mask=mask).skipped


def test_what_is_masked_does_not_matter(asked):
    logits, ids = asked
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[:, :40] = False
    spoilt, other = logits.clone(), ids.clone()
    spoilt[:, :39] = float("nan")
    other[:, :40] = -100
    assert audit_signal(spoilt, other, mask=mask) == audit_signal(logits, ids, mask=mask)


def test_an_impossible_token_does_not_decide_all(asked):
    logits, ids = asked
    hidden = logits.clone()
    hidden[0, 0, ids[0, 1]] = float("-inf")
    result = audit_signal(hidden, ids)
    assert result.skipped is None and not result.findings


def test_ids_beyond_the_logits_are_left_out(asked):
    logits, ids = asked
    extended = ids.clone()
    extended[:, 3] = 600
    result = audit_signal(logits, extended)
    assert not result.findings and f"{ROWS} tokens with an id beyond" in result.scope


def test_the_same_seed_says_the_same(asked):
    logits, ids = asked
    assert audit_signal(logits, ids, seed=3) == audit_signal(logits, ids, seed=3)


def test_tensors_that_do_not_fit(asked):
    logits, ids = asked
    with pytest.raises(ShapeError):
        audit_signal(logits[:, :-1], ids)
    with pytest.raises(ShapeError):
        audit_signal(logits, ids, mask=torch.ones(1, 2))
    with pytest.raises(DataError, match="integers"):
        audit_signal(logits, ids.float())
    with pytest.raises(DataError, match="must be finite"):
        audit_signal(logits * float("nan"), ids)
    with pytest.raises(DataError, match="No position"):
        audit_signal(logits, ids, mask=torch.zeros_like(ids))
    with pytest.raises(DataError, match="negative"):
        audit_signal(logits, ids - 600)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), sizes=st.lists(st.integers(2, 3), min_size=1, max_size=2))
def test_the_p_value_is_that_of_all_permutations(seed, sizes):
    generator = torch.Generator().manual_seed(seed)
    blocks = [torch.randn(size, size, generator=generator) for size in sizes]
    tested = permutation_test(blocks, generator=generator, repetitions=4_000)
    sums = [
        sum(float(block[place, token]) for block, order in zip(blocks, orders, strict=True)
            for token, place in enumerate(order))
        for orders in itertools.product(*(itertools.permutations(range(len(block))) for block in blocks))
    ]  # fmt: skip
    observed = sum(float(block.trace()) for block in blocks)
    exact = sum(total >= observed - 1e-6 for total in sums) / len(sums)
    assert tested.p == pytest.approx(exact, abs=0.04)
    assert tested.mean == pytest.approx(observed / sum(sizes), abs=1e-5)
    assert tested.shuffled == pytest.approx(sum(sums) / len(sums) / sum(sizes), abs=1e-5)


def test_p_values_of_an_unrelated_signal_are_uniform():
    generator = torch.Generator().manual_seed(0)
    values = [
        permutation_test([torch.randn(12, 12, generator=generator)], generator=generator, repetitions=99).p
        for _ in range(300)
    ]
    below = sum(value <= 0.1 for value in values) / len(values)
    assert 0.05 < below < 0.16 and min(values) >= 0.01


def test_names_are_shuffled_among_the_ids_that_occur():
    kinds = torch.tensor([0, 1, 2, 3] * 8)
    table = torch.eye(4)[kinds] * 5
    tested = relabelling_test(table, kinds, generator=torch.Generator().manual_seed(0))
    assert tested.mean == 5 and tested.shuffled == 1.25
    # one of 24 namings is the given one
    assert 0.02 < tested.p < 0.08
    assert relabelling_test(table[:, :1], kinds * 0, generator=torch.Generator()) is None
    assert permutation_test([torch.zeros(1, 1)], generator=torch.Generator()) is None

"""The queue of the term contrastive: what goes in, in which order, and what is never held against what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distillab.objectives.contrastive import Contrastive
from tests.objectives.contrastive_samples import contrastive_term, naive_spans, one_step, span_batch, span_states


def test_the_queue_stands_still_inside_of_a_step() -> None:
    term, batch = contrastive_term(), span_batch([0, 1])
    first = term.total(*span_states(term, batch), batch).item()
    assert term.total(*span_states(term, batch), batch).item() == first
    term.end_step(lambda values: values)
    assert term.total(*span_states(term, batch), batch).item() > first


def test_a_row_that_comes_again_does_not_flee_from_itself() -> None:
    term = contrastive_term(queue=20)
    assert [one_step(term, span_batch([3])) for _ in range(2)] == pytest.approx([0.0, 0.0], abs=1e-6)
    one_step(term, span_batch([0]))
    assert one_step(term, span_batch([3])) > 0.01  # told apart from what was read of another row


def _held(term: Contrastive) -> Any:
    """The states in the queue, in an order of their own."""
    queue = term.heads(term.pairs[0]).queue
    assert queue is not None
    return np.array(sorted(state.tolist() for state in queue.states_QE[queue.filled_Q]))


def _of(states: Sequence[Tensor]) -> Any:
    return pytest.approx(np.array(sorted(state.float().tolist() for state in states)), abs=1e-5)


def _read(term: Contrastive, *numbers: int) -> list[Tensor]:
    return [theirs for number in numbers for _, _, theirs in naive_spans(term, number, term.pairs[0])]


def test_the_queue_is_first_in_first_out_and_holds_raw_states_of_the_teacher() -> None:
    term = contrastive_term(queue=10)
    one_step(term, span_batch([0]))
    assert _held(term) == _of(_read(term, 0))
    one_step(term, span_batch([1]), span_batch([1, 3]))  # row 1 twice, and counted once
    assert _held(term) == _of(_read(term, 0, 1, 3))
    one_step(term, span_batch([5]))  # takes the places of row 0
    assert _held(term) == _of(_read(term, 1, 3, 5))


def test_a_step_with_more_spans_than_places_is_thinned_evenly() -> None:
    term = contrastive_term(queue=3)
    one_step(term, span_batch([1, 0]))  # spans 0 to 4 of row 0, 0 to 3 of row 1: every third is kept
    spans = _read(term, 0, 1)
    assert _held(term) == _of([spans[place] for place in (0, 3, 6)])


def test_gathered_spans_of_other_processes_are_put_in_by_their_rows() -> None:
    """What one process noted of all rows, or two of some each: the same queue."""
    whole, parts = contrastive_term(), [contrastive_term(), contrastive_term()]
    one_step(whole, span_batch([0, 1, 5]))
    kept: list[list[Tensor]] = []
    for part, numbers in zip(parts, ([5, 0], [1]), strict=True):
        batch = span_batch(numbers)
        part.total(*span_states(part, batch), batch)
        kept.append([])

        def note(values: Tensor) -> Tensor:
            kept[-1].append(values)
            return values

        part.end_step(note)
    joined = iter([torch.cat(tensors) for tensors in zip(*kept, strict=True)])
    again, batch = contrastive_term(), span_batch([5, 0])
    again.total(*span_states(again, batch), batch)
    again.end_step(lambda values: next(joined))
    assert np.array_equal(_held(again), _held(whole))

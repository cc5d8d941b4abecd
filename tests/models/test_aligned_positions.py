"""The alignment of a batch, on spans that are written down by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from accelerate.utils import send_to_device
from torch.utils.data import DataLoader

from distillab.data.collation import Collator, PaddingSide
from distillab.data.encoding import EncodedRow
from distillab.data.paired import PairedCollator, PairedDataset, PairedRow
from distillab.errors import ShapeError
from distillab.models.aligned_positions import align_batch, require_alignment, teacher_batch
from distillab.models.batch import TokenBatch


def _side(key: str, spans: list[int], prompt: int) -> tuple[EncodedRow, np.ndarray]:
    length = len(spans)
    return EncodedRow(key, np.arange(length, dtype=np.int32), np.arange(length) >= prompt, prompt), np.array(spans)


def _row(index: int, ours: tuple[list[int], int], theirs: tuple[list[int], int]) -> PairedRow:
    (student, s), (teacher, t) = _side(f"k{index}", *ours), _side(f"k{index}", *theirs)
    return PairedRow(index, student, teacher, s, t)


#                spans of the tokens, prompt tokens; the batch numbers the second row's from 6 on
FIRST = _row(0, ([0, 1, 1, 2, 3, 3, 4], 1), ([-1, 0, 1, 2, -1, 3, 3, 4], 2))
# span 1 straddles the border on the teacher's side; span 3 follows a token of the student alone
SECOND = _row(1, ([0, 1, 2, -1, 3], 1), ([0, 1, 1, 2, 3], 2))


def _batch(*rows: PairedRow, ours: PaddingSide = "right", theirs: PaddingSide = "right") -> TokenBatch:
    return PairedCollator(Collator(0, ours), Collator(0, theirs))(rows)


@pytest.mark.parametrize("ours", ["left", "right"])
@pytest.mark.parametrize("theirs", ["left", "right"])
def test_two_rows(ours: PaddingSide, theirs: PaddingSide) -> None:
    batch = _batch(FIRST, SECOND, ours=ours, theirs=theirs)
    # scored are the tokens behind the prompt
    assert batch["alignment"].student.spans_N.tolist() == [1, 1, 2, 3, 3, 4, 7, 8, -1, 9]
    assert batch["alignment"].teacher.spans_N.tolist() == [1, 2, -1, 3, 3, 4, 7, 8, 9]
    assert batch["alignment"].shared_S.nonzero()[:, 0].tolist() == [1, 2, 3, 4, 8, 9]
    assert batch["alignment"].student.starts_N.tolist() == [
        True,
        False,
        True,
        True,
        False,
        True,
        True,
        True,
        False,
        True,
    ]
    # the second row's span 7 begins in the teacher's prompt, so that nothing predicts from the same place
    assert batch["alignment"].partner_N.tolist() == [0, -1, 1, 3, -1, 5, -1, 7, -1, 8]
    assert batch["alignment"].ordinal_N.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, -1]


def test_first_positions_of_spans() -> None:
    alignment = _batch(FIRST, SECOND)["alignment"]
    assert alignment.student.first_S.tolist() == [-1, 0, 2, 3, 5, -1, -1, 6, 7, 9]
    assert alignment.teacher.first_S.tolist() == [-1, 0, 1, 3, 5, -1, -1, -1, 7, 8]
    wanted = torch.tensor([span in (3, 7) for span in range(10)])
    assert alignment.student.inside(wanted).nonzero()[:, 0].tolist() == [3, 4, 6]
    assert alignment.teacher.inside(wanted).nonzero()[:, 0].tolist() == [3, 4, 6]


def test_a_data_loader_moves_the_alignment_with_its_batch() -> None:
    batch = _batch(FIRST, SECOND)
    moved = send_to_device(batch, torch.device("meta"), non_blocking=True)
    for side in (moved["alignment"].student, moved["alignment"].teacher):
        assert len(vars(side)) == 4 and all(tensor.device.type == "meta" for tensor in vars(side).values())
    rest = (moved["alignment"].shared_S, moved["alignment"].partner_N, moved["alignment"].ordinal_N)
    assert all(tensor.device.type == "meta" for tensor in rest)
    assert batch["alignment"].partner_N.device.type == "cpu"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_loader_gives_each_microbatch_its_own_alignment(workers: int) -> None:
    rows = PairedDataset([FIRST, SECOND, FIRST])
    loader = DataLoader(rows, batch_size=2, collate_fn=PairedCollator(Collator(0), Collator(0)), num_workers=workers)
    for found, expected in zip(loader, (_batch(FIRST, SECOND), _batch(FIRST)), strict=True):
        for name in ("shared_S", "partner_N", "ordinal_N"):
            assert torch.equal(getattr(found["alignment"], name), getattr(expected["alignment"], name))


def test_what_comes_right_after_a_span() -> None:
    batch = _batch(FIRST, SECOND)
    # of the first row's prompt too; not past the end of a row, nor over a token of one side alone
    assert batch["alignment"].student.next_S.tolist() == [0, 2, 3, 5, -1, -1, 6, 7, -1, -1]
    assert batch["alignment"].teacher.next_S.tolist() == [0, 1, -1, 5, -1, -1, -1, 7, 8, -1]


def test_the_end_of_a_row_is_inside_of_its_last_span() -> None:
    batch = _batch(_row(0, ([0, 1, 1], 1), ([0, 1], 1)), SECOND)
    assert batch["alignment"].student.next_S.tolist()[:2] == [0, -1]


def test_a_span_that_an_answer_ends_in_is_not_shared() -> None:
    """As where a conversation goes on with what the other one says, which is not scored."""
    row = _row(0, ([0, 1, 2], 1), ([0, 1, 1, 2], 1))
    row.teacher.answer_mask[2] = False
    batch = _batch(row)
    assert batch["alignment"].shared_S.tolist() == [False, False, True]
    assert batch["alignment"].partner_N.tolist() == [-1, 1]


def test_the_order_of_rows_changes_only_the_order() -> None:
    one, other = _batch(FIRST, SECOND), _batch(SECOND, FIRST)
    assert other["alignment"].partner_N.tolist() == [-1, 1, -1, 2, 3, -1, 4, 6, -1, 8]
    assert other["alignment"].ordinal_N.tolist() == [0, 1, 2, -1, 3, 4, 5, 6, 7, 8]
    assert int(one["alignment"].shared_S.sum()) == int(other["alignment"].shared_S.sum())


def test_rows_without_any_span_are_not_aligned() -> None:
    batch = _batch(_row(0, ([-1, -1, -1], 1), ([-1, -1], 1)))
    assert batch["alignment"].shared_S.tolist() == [False]
    assert batch["alignment"].partner_N.tolist() == [-1, -1]
    assert batch["alignment"].student.next_S.tolist() == [-1]
    assert batch["alignment"].ordinal_N.tolist() == [0, -1]


def test_a_sample_that_one_side_does_not_score_has_no_partners() -> None:
    batch = _batch(FIRST, _row(1, ([0, 1, 2], 1), ([0, 1, 2], 3)))
    assert batch["alignment"].partner_N.tolist()[6:] == [-1, -1]
    assert batch["alignment"].ordinal_N.tolist()[6:] == [-1, -1]


def test_samples_packed_in_another_order_are_matched_by_their_row() -> None:
    rows = [_row(index, ([0] + [1] * (length - 1), 1), ([0, 1], 1)) for index, length in enumerate([4, 6, 2])]
    batch = PairedCollator(Collator(0, capacity=6), Collator(0, capacity=6))(rows)
    assert batch["rows"].tolist() == [[0] * 4 + [2] * 2, [1] * 6]
    assert batch["teacher"]["rows"].tolist() == [[0, 0, 1, 1, 2, 2]]
    expected = [0, -1, -1, 2, 1, -1, -1, -1, -1]
    assert batch["alignment"].partner_N.tolist() == batch["alignment"].ordinal_N.tolist() == expected


def test_sides_of_other_samples_are_refused() -> None:
    batch = _batch(FIRST)
    batch["teacher"] = _batch(SECOND)["teacher"]
    with pytest.raises(ShapeError, match="other samples"):
        align_batch(batch, batch["teacher"])


def test_a_batch_of_one_tokenizer_has_no_alignment() -> None:
    batch = _batch(FIRST)
    assert teacher_batch(batch) is batch["teacher"]
    del batch["teacher"]
    del batch["spans"], batch["alignment"]
    assert teacher_batch(batch) is batch
    with pytest.raises(ShapeError, match="no alignment of two tokenisations"):
        require_alignment(batch)

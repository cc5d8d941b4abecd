"""Where the text of a row lies, and what is no batch."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from tests.doctor.batch_samples import tokenizer_of

from distillab.doctor.batch.audit import Told, run_batch_checks
from distillab.doctor.batch.rows import read_batches
from distillab.doctor.batch.show import row_line
from distillab.doctor.batch.tokens import text_range, token_facts
from distillab.errors import ConfigError, DataError, ShapeError

UNK, BOS, EOS = 0, 1, 2
ID = 300


@pytest.mark.parametrize(
    ("ids", "mask", "pad", "expected"),
    [
        ([BOS, ID, ID, EOS], None, None, (0, 4)),
        # the first of a run of end tokens is the text's end
        ([BOS, ID, EOS, EOS, EOS], None, None, (0, 3)),
        ([BOS, ID, EOS, UNK, UNK], None, None, (0, 3)),
        ([BOS, ID, EOS, UNK], None, UNK, (0, 3)),
        ([BOS, ID, EOS, UNK], None, None, (0, 4)),
        ([EOS, EOS, BOS, ID, EOS], None, None, (2, 5)),
        ([EOS, BOS, ID, EOS], None, None, (0, 4)),
        ([UNK, UNK, BOS, ID], None, None, (2, 4)),
        # two begin tokens are a fault of their own, and no padding
        ([BOS, BOS, ID, EOS], None, None, (0, 4)),
        ([BOS, ID, EOS, EOS], [1, 1, 1, 0], None, (0, 3)),
        ([BOS, ID, EOS, EOS], [1, 1, 0, 0], None, (0, 2)),
        # a mask that shows padding is not believed
        ([BOS, ID, EOS, UNK, UNK], [1, 1, 1, 1, 1], None, (0, 3)),
        ([BOS, ID, EOS], [0, 0, 0], None, (0, 0)),
        ([EOS, EOS, EOS], None, None, (0, 1)),
    ],
)
def test_where_the_text_lies(materials, ids, mask, pad, expected):
    facts = token_facts(tokenizer_of(materials, "tok512"), pad)
    attention = None if mask is None else np.array(mask)
    assert text_range(np.array(ids), attention, facts) == expected


IDS = torch.tensor([[BOS, ID, EOS]])


@pytest.mark.parametrize(
    ("batch", "kind", "text"),
    [
        ({"input_ids": IDS}, DataError, "no labels"),
        ({"labels": IDS}, DataError, "no input_ids"),
        ({"input_ids": IDS, "labels": IDS, "decoder_input_ids": IDS}, DataError, "decoder_input_ids"),
        ({"input_ids": IDS, "labels": IDS[:, :2]}, ShapeError, "row 0: 3 input ids, 2 in labels"),
        ({"input_ids": IDS, "labels": IDS, "attention_mask": IDS[:, :2]}, ShapeError, "attention_mask"),
        ({"input_ids": IDS, "labels": torch.tensor([1])}, ShapeError, "labels"),
        ({"input_ids": IDS.float(), "labels": IDS}, DataError, "float32"),
        ({"input_ids": IDS.bool(), "labels": IDS}, DataError, "bool"),
        ({"input_ids": [[1, True]], "labels": [[1, 1]]}, DataError, "True"),
        ([IDS], DataError, "Tensor"),
        (IDS, DataError, "Tensor"),
        ([], DataError, "no rows"),
        ({"input_ids": IDS.expand(2_000_000, 3), "labels": IDS}, DataError, "shape (2000000, 3)"),
    ],
)
def test_what_is_no_batch(batch, kind, text):
    with pytest.raises(kind) as caught:
        read_batches(batch)
    assert text in str(caught.value)


def test_a_loader_is_read_as_far_as_is_needed():
    given = read_batches({"input_ids": IDS, "labels": IDS} for _ in range(10_000))
    assert given.batches == len(given.rows) == 64


def examine(batch, tokenizer, ignore_index=-100):
    return run_batch_checks(read_batches(batch), tokenizer, Told(ignore_index=ignore_index))


def test_a_row_is_shown_with_its_mask(materials):
    tokenizer = tokenizer_of(materials, "tok512")
    batch = {"input_ids": [[BOS, ID, 301, EOS, EOS, EOS, 9999]], "labels": [[-100, -100, 301, EOS, -100, -100, -100]]}
    reading = examine(batch, tokenizer)
    names = tokenizer.convert_ids_to_tokens([ID, 301])
    line = row_line(reading.rows[0], reading.facts)
    one, two = (name.replace("▁", " ") for name in names)
    assert line == f"<s>·{one}·⟦{two}·</s>⟧·</s>·</s>·<no token 9999>"
    reading = examine({key: [values[0][:-1]] for key, values in batch.items()}, tokenizer)
    assert row_line(reading.rows[0], reading.facts) == f"<s>·{one}·⟦{two}·</s>⟧·‹</s> ×2›"


def test_the_number_of_what_is_not_scored_is_no_token(materials):
    with pytest.raises(ConfigError):
        examine({"input_ids": IDS, "labels": IDS}, tokenizer_of(materials, "tok512"), ignore_index=ID)


WIDE = torch.zeros(1, 1, 3, 3)


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (torch.tensor([[0.5, 1.0, 0.0]]), "neither 0 and 1 nor added"),
        ([[0.5, 1.0, 0.0]], "neither 0 and 1 nor added"),
        (torch.full((1, 3), float("nan")), "neither 0 and 1 nor added"),
        (WIDE.expand(1, 4, 3, 3)[:, :, :, :2], r"\(1, 4, 3, 2\) is not judged"),
        (torch.zeros(1).expand(1, 10**6, 10**6), r"\(1, 1000000, 1000000\) is not judged"),
        (torch.zeros(1, 1, 3, 3, device="meta"), "is not judged"),
        (WIDE.to(torch.complex64), "is not judged"),
        (WIDE.to_sparse(), "is not judged"),
        (torch.full((1, 1, 3, 3), float("nan")), "it holds NaN"),
        ([[[1.0, 1.0, 1.0]]], "3 dimensions"),
    ],
)
def test_a_mask_that_cannot_be_judged_is_named_and_the_rest_is_read(mask, said):
    given = read_batches({"input_ids": IDS, "labels": IDS, "attention_mask": mask})
    (note,) = given.notes
    assert re.search(said, note) and given.rows[0].attention is None


def test_a_mask_of_floats_in_another_size_is_refused_as_one_of_integers():
    with pytest.raises(ShapeError, match="attention_mask"):
        read_batches({"input_ids": IDS, "labels": IDS, "attention_mask": torch.zeros(1, 4)})

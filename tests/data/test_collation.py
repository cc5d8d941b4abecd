"""Padding changes no number; the shift and the mask do."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from distillab.config.data import SourceConfig
from distillab.data.collation import Collator, IndexedRow, TokenDataset
from distillab.data.encoding import EncodedRow, Encoder
from distillab.data.row_examples import to_examples
from distillab.data.sources import read_rows
from distillab.data.templates import resolve_template
from distillab.errors import DataError


def row(ids, learned):
    mask = np.array([place in learned for place in range(len(ids))])
    return EncodedRow("k", np.array(ids, dtype=np.int32), mask, min(learned))


ROWS = [IndexedRow(7, row([5, 6, 2], {2})), IndexedRow(3, row([4, 5, 6, 8, 2], {3, 4}))]


@pytest.mark.parametrize("side", ["right", "left"])
def test_batch_is_laid_out_by_hand(side):
    batch = Collator(pad_id=2, padding_side=side)(ROWS)
    pad = -100
    if side == "right":
        assert batch["input_ids"].tolist() == [[5, 6, 2, 2, 2], [4, 5, 6, 8, 2]]
        assert batch["labels"].tolist() == [[pad, pad, 2, pad, pad], [pad, pad, pad, 8, 2]]
        assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1] * 5]
        assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 0], [0, 1, 2, 3, 4]]
    else:
        assert batch["input_ids"].tolist() == [[2, 2, 5, 6, 2], [4, 5, 6, 8, 2]]
        assert batch["labels"].tolist() == [[pad, pad, pad, pad, 2], [pad, pad, pad, 8, 2]]
        assert batch["attention_mask"].tolist() == [[0, 0, 1, 1, 1], [1] * 5]
        assert batch["position_ids"].tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]]
    assert batch["answer_mask"].tolist() == (batch["labels"] != pad).tolist()
    assert batch["rows"].tolist() == [[7, 7, 7, -1, -1] if side == "right" else [-1, -1, 7, 7, 7], [3] * 5]
    for name in ("input_ids", "attention_mask", "position_ids", "labels", "rows"):
        assert batch[name].dtype == torch.int64


def test_eos_is_learned_also_where_it_is_the_padding():
    batch = Collator(pad_id=2)(ROWS)
    assert (batch["labels"] == 2).sum() == 2
    assert (batch["input_ids"] == 2).sum() == 4


def test_collator_travels_to_worker_processes():
    again = pickle.loads(pickle.dumps(Collator(2, "left")))  # noqa: S301 - our own bytes
    assert again(ROWS)["input_ids"].tolist() == Collator(2, "left")(ROWS)["input_ids"].tolist()


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_supervised_first_token_is_refused(side):
    """Under left padding it would be scored against the logits of padding."""
    with pytest.raises(DataError, match="first token of a row is supervised"):
        Collator(0, side)([*ROWS, IndexedRow(1, row([5, 6], {0, 1}))])


def test_an_empty_batch_is_refused():
    with pytest.raises(DataError, match="at least one row"):
        Collator(0)([])


@pytest.fixture(scope="module")
def stories(materials, real_tokenizer):
    """A real small model and ragged prompt-answer rows of real stories."""
    model = AutoModelForCausalLM.from_pretrained(materials / "models" / "stories260K-tok512", dtype=torch.float32)
    tokenizer = real_tokenizer("tok512")
    source = SourceConfig(path=str(materials / "text" / "tinystories" / "stories_dev.jsonl"), limit=5)
    examples = []
    for number, example in enumerate(to_examples(read_rows(source), columns=None, prompt_share=0.3)):
        words = example.answer.split(" ")[: 5 + 11 * number]
        examples.append(example.with_answer(" ".join(words)))
    encoder = Encoder(tokenizer, resolve_template("plain", tokenizer, "text"), 400)
    split = encoder.encode_all(examples, source="stories")
    # Learn the answers only, so that a wrong mask or shift shows.
    for item in split.rows:
        item.answer_mask[: item.prompt_length] = False
    return model.eval(), TokenDataset(split), encoder.pad_id


@torch.no_grad()
def row_losses(model, batch, *, shift=0):
    """Sum of nats of each row, position by position; `shift` moves the mask, which is wrong."""
    logits = model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], position_ids=batch["position_ids"]
    ).logits
    sums = []
    for number in range(len(logits)):
        total = 0.0
        for place in range(1, logits.shape[1]):
            marked = place + shift
            if marked < logits.shape[1] and batch["answer_mask"][number, marked]:
                logp = torch.log_softmax(logits[number, place - 1].double(), dim=-1)
                total -= logp[batch["input_ids"][number, place]].item()
        sums.append(total)
    return torch.tensor(sums, dtype=torch.float64)


def test_both_padding_sides_and_no_padding_give_the_same_loss(stories):
    model, data, pad_id = stories
    items = [data[number] for number in range(len(data))]
    lengths = {len(item.row) for item in items}
    assert len(lengths) == len(items) == 5
    alone = torch.cat([row_losses(model, Collator(pad_id)([item])) for item in items])
    for side in ("right", "left"):
        for padding in (pad_id, 9):
            together = row_losses(model, Collator(padding, side)(items))
            torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert alone.min() > 1.0


def test_labels_mean_to_transformers_what_the_mask_means_to_us(stories):
    model, data, pad_id = stories
    batch = Collator(pad_id, "left")([data[number] for number in range(len(data))])
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids", "labels")}
    with torch.no_grad():
        theirs = model(**inputs).loss
    ours = row_losses(model, batch).sum() / batch["answer_mask"].sum()
    torch.testing.assert_close(theirs.double(), ours, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_shifted_mask_gives_other_numbers(stories, shift):
    model, data, pad_id = stories
    batch = Collator(pad_id)([data[number] for number in range(len(data))])
    right, wrong = row_losses(model, batch), row_losses(model, batch, shift=shift)
    assert (right - wrong).abs().min() > 0.01


def test_positions_matter_under_left_padding(stories):
    # Without positions of their own, left-padded rows of a model with absolute positions would read
    # other numbers; for a rotary model only far positions show it. So the positions are pinned here.
    _, data, pad_id = stories
    batch = Collator(pad_id, "left")([data[0], data[4]])
    first = int(batch["attention_mask"][0].argmax())
    assert first > 0
    assert batch["position_ids"][0, first:].tolist() == list(range(len(data[0].row)))

"""Calibration against a naive loop: over numbers, and over a real small model on real text."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from distillab.config.data import DataConfig, SourceConfig
from distillab.data.reading import load_reader
from distillab.data.splits import load_examples
from distillab.errors import ConfigError
from distillab.evaluation.calibration import calibration
from distillab.evaluation.likelihood import score_rows


def _naive(pairs: list[tuple[float, bool]], bins: int) -> float:
    total = 0.0
    for number in range(bins):
        low, high = number / bins, (number + 1) / bins
        inside = [(c, r) for c, r in pairs if low < c <= high or (number == 0 and c == 0)]
        if inside:
            sure = sum(c for c, _ in inside) / len(inside)
            right = sum(r for _, r in inside) / len(inside)
            total += len(inside) / len(pairs) * abs(right - sure)
    return total


# no confidence within rounding of a border: there the naive bin is a matter of the last digit
_confidences = st.floats(0.001, 1.0).filter(lambda c: min(abs(c * b - round(c * b)) for b in (1, 5, 15)) > 1e-6)


@given(st.lists(st.tuples(_confidences, st.booleans()), min_size=1, max_size=40), st.sampled_from([1, 5, 15]))
def test_the_error_is_that_of_a_naive_loop(pairs: list[tuple[float, bool]], bins: int) -> None:
    confidence = torch.tensor([c for c, _ in pairs], dtype=torch.float64)
    right = torch.tensor([float(r) for _, r in pairs], dtype=torch.float64)
    found = calibration(confidence, right, bins=bins)
    assert found.expected_error == pytest.approx(_naive(pairs, bins), abs=1e-9)
    assert (found.tokens, found.accuracy) == (len(pairs), pytest.approx(sum(r for _, r in pairs) / len(pairs)))


def test_a_border_belongs_to_the_bin_below_and_one_to_the_last() -> None:
    # at two bins 0.5 shares a bin with 0.3: the two gaps, +0.5 and −0.3, cancel in part
    values, right = torch.tensor([0.5, 0.3, 1.0], dtype=torch.float64), torch.tensor([1.0, 0.0, 1.0]).double()
    assert calibration(values, right, bins=2).expected_error == pytest.approx(0.2 / 3)


def test_opposite_errors_in_different_bins_do_not_cancel() -> None:
    found = calibration(torch.tensor([0.3, 0.7]).double(), torch.tensor([1.0, 0.0]).double(), bins=15)
    assert found.confidence == pytest.approx(found.accuracy)
    assert found.expected_error == pytest.approx(0.7)


def test_a_real_model_on_real_text(materials: Path) -> None:
    path = materials / "models" / "stories260K-tok512"
    reader = load_reader(str(path), revision=None, template="auto", kind="text", max_tokens=64)
    source = SourceConfig(path=str(materials / "text" / "tinystories" / "stories_dev.jsonl"), limit=10)
    rows = reader.encoder.encode_all(load_examples(DataConfig(train=source)).train[:5], source="x").rows
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    pairs = []
    for row in rows:
        ids = torch.tensor(row.input_ids[None].astype(np.int64))
        with torch.no_grad():
            prob = model(input_ids=ids).logits[0].double().softmax(-1)
        for t in range(1, len(row)):
            if row.answer_mask[t]:
                pairs.append((float(prob[t - 1].max()), int(prob[t - 1].argmax()) == int(row.input_ids[t])))
    found = score_rows(
        model, rows, collator=reader.collator("left"), batch_size=2, stop_ids=reader.encoder.stop_ids
    ).calibration
    assert found.tokens == len(pairs)
    assert found.accuracy == pytest.approx(sum(r for _, r in pairs) / len(pairs))
    assert found.confidence == pytest.approx(sum(c for c, _ in pairs) / len(pairs), abs=1e-5)
    assert math.isclose(found.expected_error, _naive(pairs, 15), abs_tol=1e-4)


def test_no_bins_or_no_predictions_are_refused() -> None:
    some = torch.ones(2).double()
    for bins, values in ((0, some), (15, some[:0])):
        with pytest.raises(ConfigError, match="at least one bin"):
            calibration(values, values, bins=bins)

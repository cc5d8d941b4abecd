"""What rounding loses: the bounds that the docstrings state, and the divergence that comes of it on a real teacher."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from distillab.cache.kinds import decode, encode
from distillab.cache.next_tokens import TopK, TopKLayout
from distillab.cache.values import (
    COMPANDED_LOGP,
    check_logp,
    companded_codes,
    float16_logp,
    float16_nats,
    from_int8_rows,
    int8_rows,
)
from distillab.errors import NumericsError

# FORMAT.md, with Python's own exp and log
NAIVE_TABLE = [-1.5 * (math.exp(u * math.log(1 + 24 / 1.5) / 254) - 1) for u in range(255)]

nats = st.floats(0, 40, width=32)


def test_the_table_is_the_formula() -> None:
    assert COMPANDED_LOGP[255] == -np.inf
    np.testing.assert_allclose(COMPANDED_LOGP[:255], NAIVE_TABLE, rtol=1e-6)
    assert [round(float(COMPANDED_LOGP[u]), 6) for u in (0, 1, 127, 254)] == [0.0, -0.016825, -4.684659, -24.0]
    assert not np.signbit(COMPANDED_LOGP[0])
    assert (np.diff(COMPANDED_LOGP[:255]) < 0).all()


def test_every_code_is_read_as_itself() -> None:
    assert companded_codes(COMPANDED_LOGP).tolist() == list(range(256))


@settings(deadline=None)
@given(st.lists(nats, min_size=1, max_size=50))
def test_a_code_is_the_nearest_and_within_the_bound(lengths: list[float]) -> None:
    logp = -np.array(lengths, np.float32)
    codes = companded_codes(logp)
    for value, code in zip(logp.tolist(), codes.tolist(), strict=True):
        distances = [abs(value - entry) for entry in NAIVE_TABLE]
        assert distances[code] <= min(distances) + 1e-6
        if value >= -24:
            assert distances[code] <= 0.0056 * (1.5 - value) + 1e-6


@pytest.mark.parametrize("side", [0.9999, 1.0001])
def test_the_nearest_on_both_sides_of_every_border(side: float) -> None:
    """Of two neighbours the middle in nats decides, which is not the middle of their codes."""
    middles = [(first + second) / 2 for first, second in pairwise(NAIVE_TABLE)]
    codes = companded_codes(np.array(middles, np.float32) * np.float32(side))
    assert codes.tolist() == [u + (side > 1) for u in range(254)]


def test_codes_fall_with_the_probability() -> None:
    logp = -np.concatenate((np.linspace(0, 40, 100_001), np.geomspace(1e-30, 3e38, 10_001))).astype(np.float32)
    order = np.argsort(-logp, kind="stable")
    assert (np.diff(companded_codes(logp[order]).astype(int)) >= 0).all()


def test_codes_at_the_ends() -> None:
    logp = np.array([0.0, -0.0, 1e-6, -1e-9, -24.0, -25.0, np.finfo(np.float32).min, -np.inf], np.float32)
    assert companded_codes(logp).tolist() == [0, 0, 0, 0, 254, 254, 254, 255]


@settings(deadline=None)
@given(st.lists(st.floats(-60_000, 0, width=32), min_size=1, max_size=50))
def test_float16_within_its_bound(values: list[float]) -> None:
    logp = np.array(values, np.float32)
    error = np.abs(float16_logp(logp).astype(np.float64) - logp)
    assert (error <= np.abs(logp) / 2048 + 2**-25).all()
    assert np.array_equal(float16_nats(-logp), -float16_logp(logp))


def test_float16_at_the_ends() -> None:
    logp = np.array([0.0, -0.0, 1e-6, -1e9, np.finfo(np.float32).min, -np.inf], np.float32)
    stored = float16_logp(logp)
    assert stored.astype(np.float32).tolist() == [0, 0, 0, -65504, -65504, -np.inf]
    assert not np.signbit(stored[:3]).any()
    assert not np.signbit(float16_nats(np.array([-0.0, -1e-6], np.float32))).any()
    assert stored.dtype == np.dtype("<f2")


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.01])
def test_what_is_no_log_probability_is_refused_with_its_place(bad: float) -> None:
    logp = np.full((5, 3), -1.0, np.float32)
    logp[3, 1] = bad
    with pytest.raises(NumericsError, match=r"here: .* at scored position 3"):
        check_logp("here", logp)
    check_logp("here", np.array([0.0, 1e-6, -np.inf], np.float32))


rows_of_states = st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=4, max_size=4), min_size=1, max_size=6)


@settings(deadline=None)
@given(rows_of_states, st.sampled_from([1.0, 1e-3, 1e-9, 1e-13]))
@example([[0.0, 0.0, 0.0, 927408.0]], 1e-9)  # its scale is a subnormal float16
def test_int8_within_its_bound(rows: list[list[float]], unit: float) -> None:
    states = np.array(rows, np.float32) * np.float32(unit)
    scale, codes = int8_rows(states)
    assert np.abs(codes.astype(int)).max() <= 127
    read = from_int8_rows(scale, codes)
    largest = np.abs(states).max(axis=1, keepdims=True).astype(np.float64)
    half = scale.astype(np.float64)[:, None] / 2
    # 1e-6 is what a product in float32 rounds
    assert (np.abs(read.astype(np.float64) - states) <= half + 1e-6 * np.abs(states)).all()
    assert (half <= largest / 254 * (1 + 2**-10) + 2**-25).all()


def test_int8_of_zeros_and_of_too_much() -> None:
    scale, codes = int8_rows(np.zeros((2, 3), np.float32))
    assert scale.tolist() == [0, 0]
    assert not codes.any()
    with pytest.raises(NumericsError, match="int8"):
        int8_rows(np.array([[1.0], [8.4e6]], np.float32))


@pytest.fixture(scope="module")
def real_logp(materials: Path) -> npt.NDArray[np.float64]:
    """In float64: a softmax in float32 over 32,000 tokens is itself off by 6 · 10⁻⁵."""
    folder = materials / "models" / "smallmistral-stories"
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    lines = (materials / "text" / "tinystories" / "stories_dev.jsonl").read_text().splitlines()[:3]
    with torch.no_grad():
        logits = [
            model(input_ids=torch.tensor([tokenizer(json.loads(x)["text"]).input_ids[:150]])).logits for x in lines
        ]
    logp: npt.NDArray[np.float64] = torch.log_softmax(torch.cat(logits, dim=1)[0].double(), dim=-1).numpy()
    return logp


@pytest.mark.parametrize("k", [4, 64])
def test_the_divergence_that_rounding_adds_on_a_real_teacher(real_logp: npt.NDArray[np.float64], k: int) -> None:
    order = np.argsort(-real_logp, axis=1, kind="stable")
    kept = np.take_along_axis(real_logp, order[:, :k], 1)
    tail = np.log(np.exp(np.take_along_axis(real_logp, order[:, k:], 1)).sum(1))
    small = [array.astype(np.float32) for array in (kept, tail, kept[:, 0])]
    row = TopK(order[:, :k].astype(np.int32), *small)
    worst = {}
    for values in ("companded8", "float16"):
        layout = TopKLayout(k=k, id_bits=15, values=values, temperature=1.0)
        read = decode([encode(row, layout)], [len(kept)], layout)
        assert isinstance(read, TopK)
        true = np.concatenate((kept, tail[:, None]), 1)
        back = np.concatenate((read.logp, read.tail_logmass[:, None]), 1).astype(np.float64)
        divergence = (np.exp(true) * (true - back)).sum(1)
        assert divergence.min() > -1e-6
        worst[values] = divergence.max()
        assert divergence.mean() < {"companded8": 1e-4, "float16": 5e-7}[values]
    assert worst["companded8"] < 3e-4

"""Rows as a teacher makes them, and a reader of records from the page FORMAT.md alone."""

from __future__ import annotations

import struct

import numpy as np

from distillab.cache.activations import StateArray, States, StatesLayout
from distillab.cache.layout import Section
from distillab.cache.next_tokens import Sampled, TopK


def top_k_row(rng: np.random.Generator, positions: int, k: int, vocabulary: int, *, ruled_out: int = 0) -> TopK:
    logits = rng.normal(size=(positions, vocabulary)) * rng.choice([0.1, 2, 8])
    logits[:, :ruled_out] = -np.inf
    prob = np.exp(logits - logits.max(1, keepdims=True))
    prob /= prob.sum(1, keepdims=True)
    ids = np.argsort(-prob, axis=1, kind="stable")[:, :k]
    kept = np.take_along_axis(prob, ids, 1)
    rest = prob.copy()
    np.put_along_axis(rest, ids, 0.0, 1)
    actual = prob[np.arange(positions), rng.integers(0, vocabulary, positions)]
    with np.errstate(divide="ignore"):
        logs = [np.log(x).astype(np.float32) for x in (kept, rest.sum(1), actual)]
    return TopK(ids.astype(np.int32), *logs)


def sampled_row(rng: np.random.Generator, positions: int, draws: int, vocabulary: int) -> Sampled:
    distinct, ids, counts = [], [], []
    for _ in range(positions):
        drawn = rng.integers(0, rng.integers(1, vocabulary + 1), draws)
        found, often = np.unique(drawn, return_counts=True)
        order = rng.permutation(len(found))
        distinct.append(len(found))
        ids.extend(found[order].tolist())
        counts.extend(often[order].tolist())
    own = rng.exponential(2, positions).astype(np.float32)
    return Sampled(np.array(distinct, np.int32), np.array(ids, np.int32), np.array(counts, np.int32), own)


STATES = StatesLayout(
    kind="hidden_states",
    positions="all",
    arrays=(
        StateArray(name="layer.3", width=5, store="float32"),
        StateArray(name="layer.1", width=2, store="float16"),
        StateArray(name="layer.2", width=3, store="bfloat16"),
        StateArray(name="layer.9", width=4, store="int8"),
    ),
)


def states_row(rng: np.random.Generator, positions: int) -> States:
    upper = (rng.normal(size=(positions, 3)).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return States(
        {
            "layer.1": rng.normal(size=(positions, 2)).astype(np.float16),
            "layer.2": upper,
            "layer.3": rng.normal(size=(positions, 5)).astype(np.float32),
            "layer.9": (rng.normal(size=(positions, 4)) * 10).astype(np.float32),
        }
    )


def parts(section: Section) -> dict[str, np.ndarray]:
    return section.arrays if isinstance(section, States) else vars(section)


def assert_equal(first: Section, second: Section) -> None:
    assert parts(first).keys() == parts(second).keys()
    for name, array in parts(first).items():
        np.testing.assert_array_equal(array, parts(second)[name], err_msg=name)


class Page:
    """Reads streams off a record, one number at a time."""

    def __init__(self, record: bytes) -> None:
        self.left = record

    def take(self, size: int) -> bytes:
        assert size <= len(self.left)
        head, self.left = self.left[:size], self.left[size:]
        return head

    def packed(self, count: int, bits: int) -> list[int]:
        stream = self.take((count + 7) // 8 * bits)
        values = []
        for i in range(count):
            value = 0
            for bit in range(bits):
                j = i * bits + bit
                value += (stream[j // 8] >> (j % 8) & 1) << bit
            values.append(value)
        return values

    def numbers(self, count: int, code: str) -> list[float]:
        return list(struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize(code))))

"""Packed numbers against one long Python integer."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillab.cache import bits
from distillab.cache.bits import bits_for, pack, packed_bytes, unpack, unpack_streams

WIDTHS = (1, 2, 7, 8, 9, 15, 16, 17, 18, 24, 25, 26, 31, 32)


def naive_stream(values: list[int], width: int) -> bytes:
    """FORMAT.md, Packed(b), word by word."""
    number = 0
    for i, value in enumerate(values):
        number += value * 2 ** (i * width)
    groups = (len(values) + 7) // 8
    return number.to_bytes(groups * width, "little")


@st.composite
def numbers(draw: st.DrawFn) -> tuple[int, list[int]]:
    width = draw(st.one_of(st.sampled_from(WIDTHS), st.integers(1, 32)))
    largest = 2**width - 1
    values = draw(st.lists(st.one_of(st.integers(0, largest), st.sampled_from([0, largest])), min_size=0, max_size=40))
    return width, values


@settings(deadline=None)
@given(numbers())
def test_a_stream_is_one_long_number(case: tuple[int, list[int]]) -> None:
    width, values = case
    stream = pack(np.array(values, np.uint32), width)
    assert stream == naive_stream(values, width)
    assert len(stream) == packed_bytes(len(values), width)
    read = unpack(np.frombuffer(stream, np.uint8), width)
    assert read[: len(values)].tolist() == values
    assert not read[len(values) :].any()
    assert len(read) % 8 == 0


@settings(deadline=None)
@given(numbers(), st.lists(st.integers(0, 20), min_size=1, max_size=5))
def test_streams_one_after_another_are_decoded_together(case: tuple[int, list[int]], counts: list[int]) -> None:
    width, values = case
    rows = [(values * 20 + [0] * 25)[start : start + count] for start, count in enumerate(counts)]
    streams = [np.frombuffer(pack(np.array(row, np.uint32), width), np.uint8) for row in rows]
    assert unpack_streams(streams, counts, width).tolist() == [value for row in rows for value in row]


@pytest.mark.parametrize("width", WIDTHS)
def test_the_largest_number_of_every_width(width: int) -> None:
    values = np.full(9, 2**width - 1, np.uint32)
    assert unpack(np.frombuffer(pack(values, width), np.uint8), width)[:9].tolist() == values.tolist()


def test_every_id_of_qwens_vocabulary() -> None:
    assert bits_for(151_936) == 18
    ids = np.arange(151_936, dtype=np.int32)
    stream = pack(ids, 18)
    assert len(stream) == 151_936 * 18 // 8
    assert np.array_equal(unpack(np.frombuffer(stream, np.uint8), 18), ids)


def test_the_pages_example() -> None:
    assert pack(np.array([1, 2, 3]), 5).hex(" ") == "41 0c 00 00 00"


@pytest.mark.parametrize("values", [1, 2, 3, 4, 5, 512, 513, 32_000, 32_768, 32_769, 2**31, 2**32])
def test_bits_for_is_as_small_as_can_be(values: int) -> None:
    width = bits_for(values)
    assert values <= 2**width
    assert width == 1 or values > 2 ** (width - 1)


def test_doctests() -> None:
    assert doctest.testmod(bits).failed == 0

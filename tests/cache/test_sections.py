"""Records of states, texts and tokens by the page, and many rows of every kind at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillab.cache.activations import States
from distillab.cache.kinds import Layout, decode, encode
from distillab.cache.layout import Section, TokensLayout
from distillab.cache.next_tokens import SampledLayout, TopKLayout
from distillab.cache.text import Text, TextLayout
from distillab.errors import CacheCorrupt, CacheMismatch, NumericsError, ShapeError
from tests.cache.section_rows import STATES, Page, assert_equal, sampled_row, states_row, top_k_row

seeds = st.integers(0, 2**32 - 1)


# states


def test_states_by_the_page() -> None:
    row = states_row(np.random.default_rng(5), 3)
    record = encode(row, STATES)
    read = decode([record], [3], STATES)
    assert isinstance(read, States)
    assert list(read.arrays) == ["layer.3", "layer.1", "layer.2", "layer.9"]
    page = Page(record)
    assert page.numbers(15, "f") == row.arrays["layer.3"].reshape(-1).tolist()
    assert page.numbers(6, "e") == row.arrays["layer.1"].reshape(-1).tolist()
    assert page.numbers(9, "H") == row.arrays["layer.2"].reshape(-1).tolist()
    scales, codes = page.numbers(3, "e"), page.numbers(12, "b")
    assert page.left == b""
    for n in range(3):
        np.testing.assert_allclose(
            read.arrays["layer.9"][n], [scales[n] * code for code in codes[4 * n : 4 * n + 4]], rtol=1e-6
        )
    for name in ("layer.1", "layer.2", "layer.3"):
        assert read.arrays[name].dtype == row.arrays[name].dtype
        np.testing.assert_array_equal(read.arrays[name], row.arrays[name])
    np.testing.assert_allclose(read.arrays["layer.9"], row.arrays["layer.9"], atol=0.2)


@pytest.mark.parametrize("name", ["layer.1", "layer.2", "layer.3", "layer.9"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_state_that_is_not_finite_is_refused(name: str, bad: float) -> None:
    row = states_row(np.random.default_rng(5), 3)
    bits = np.array([bad], np.float32).view(np.uint32) >> 16
    row.arrays[name][1, 1] = bits[0] if name == "layer.2" else bad
    with pytest.raises(NumericsError, match=f"{name}\n.*position 1 of the row, number 1"):
        encode(row, STATES)


def test_other_states_than_the_layouts_are_refused() -> None:
    row = states_row(np.random.default_rng(5), 3)
    for arrays in (
        {**row.arrays, "layer.4": row.arrays["layer.3"]},
        {name: array for name, array in row.arrays.items() if name != "layer.1"},
        {**row.arrays, "layer.1": row.arrays["layer.1"][:2]},
        {**row.arrays, "layer.1": row.arrays["layer.1"][:, :1]},
        {**row.arrays, "layer.2": row.arrays["layer.2"].astype(np.float32)},
        {**row.arrays, "layer.3": row.arrays["layer.3"].astype(np.float64)},
    ):
        with pytest.raises(ShapeError):
            encode(States(arrays), STATES)


# text and tokens


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from(["stop", "length"]))
def test_text(answer: str, finish: str) -> None:
    record = encode(Text(answer, finish), TextLayout())
    assert record == (b"s" if finish == "stop" else b"l") + answer.encode("utf-8")
    read = decode([record], [0], TextLayout())
    assert isinstance(read, Text)
    assert (read.answer, read.finish) == (answer, finish)
    assert read.split([0]) == [read]


def test_damaged_and_joined_texts_are_refused() -> None:
    for record in (b"", b"x", b"s\xff"):
        with pytest.raises(CacheCorrupt):
            decode([record], [1], TextLayout())
    with pytest.raises(ShapeError, match="one by one"):
        decode([b"s", b"s"], [1, 1], TextLayout())


@settings(deadline=None)
@given(seeds, st.lists(st.integers(1, 20), min_size=1, max_size=4), st.sampled_from([1, 9, 15, 17, 18, 31, 32]))
def test_tokens(seed: int, lengths: list[int], id_bits: int) -> None:
    rng = np.random.default_rng(seed)
    layout = TokensLayout(id_bits=id_bits)
    ids = [rng.integers(0, min(2**id_bits, 2**31), length).astype(np.int32) for length in lengths]
    masks = [rng.integers(0, 2, length).astype(bool) for length in lengths]
    records = [layout.encode(i, m) for i, m in zip(ids, masks, strict=True)]
    read_ids, read_mask = layout.decode(records, lengths)
    assert read_ids.dtype == np.int32
    assert read_mask.dtype == np.bool_
    np.testing.assert_array_equal(read_ids, np.concatenate(ids))
    np.testing.assert_array_equal(read_mask, np.concatenate(masks))
    page = Page(records[0])
    assert page.packed(lengths[0], id_bits) == ids[0].tolist()
    assert page.packed(lengths[0], 1) == masks[0].tolist()
    assert page.left == b""


def test_tokens_that_do_not_fit_are_refused() -> None:
    mask = np.array([False, True])
    for ids in ([0, 512], [-1, 3]):
        with pytest.raises(CacheMismatch, match="9 bits hold 0 to 511"):
            TokensLayout(id_bits=9).encode(np.array(ids, np.int32), mask)
    with pytest.raises(ShapeError):
        TokensLayout(id_bits=9).encode(np.array([1, 2, 3], np.int32), mask)


# many rows at once

LAYOUTS: list[Layout] = [
    TopKLayout(k=8, id_bits=15, values="companded8", temperature=1.0),
    TopKLayout(k=3, id_bits=18, values="float16", temperature=1.0),
    SampledLayout(draws=50, id_bits=15, count_bits=6, temperature=1.0),
    STATES,
]


def any_row(rng: np.random.Generator, positions: int, layout: Layout) -> Section:
    if isinstance(layout, TopKLayout):
        return top_k_row(rng, positions, layout.k, 40)
    if isinstance(layout, SampledLayout):
        return sampled_row(rng, positions, layout.draws, 300)
    return states_row(rng, positions)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: f"{layout.kind}-{getattr(layout, 'values', '')}")
@settings(deadline=None, max_examples=25)
@given(seed=seeds, lengths=st.lists(st.integers(1, 20), min_size=1, max_size=6))
def test_rows_together_equal_each_by_itself(layout: Layout, seed: int, lengths: list[int]) -> None:
    rng = np.random.default_rng(seed)
    records = [encode(any_row(rng, length, layout), layout) for length in lengths]
    # as a file gives them: views into other bytes, at odd addresses
    views = [np.frombuffer(b"!" + record + b"?", np.uint8)[1:-1] for record in records]
    together = decode(views, lengths, layout)
    alone = [decode([record], [length], layout) for record, length in zip(records, lengths, strict=True)]
    pieces = together.split(lengths)
    assert len(pieces) == len(lengths)
    for piece, one in zip(pieces, alone, strict=True):
        assert_equal(piece, one)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: f"{layout.kind}-{getattr(layout, 'values', '')}")
def test_a_record_of_another_length_is_damage(layout: Layout) -> None:
    record = encode(any_row(np.random.default_rng(2), 5, layout), layout)
    for damaged in (record[:-1], record + b"\0", record[: len(record) // 2], b""):
        with pytest.raises(CacheCorrupt, match="has another length than its layout states"):
            decode([record, damaged], [5, 5], layout)
    with pytest.raises(ShapeError, match="length"):
        decode([record], [5, 5], layout)


def test_probabilities_far_from_one_are_damage() -> None:
    layout = TopKLayout(k=2, id_bits=8, values="companded8", temperature=1.0)
    with pytest.raises(CacheCorrupt, match="sum to about one"):
        decode([bytes(2 + 2 + 2 + 8)], [1], layout)


def test_kinds_do_not_mix() -> None:
    row = top_k_row(np.random.default_rng(0), 2, 3, 9)
    with pytest.raises(ShapeError, match="sampled"):
        encode(row, LAYOUTS[2])
    with pytest.raises(ShapeError, match="tokens"):
        decode([b""], [1], TokensLayout(id_bits=3))


def test_positions() -> None:
    answer = STATES.model_copy(update={"positions": "answer"})
    wanted = [(TokensLayout(id_bits=3), 9), (LAYOUTS[0], 4), (LAYOUTS[2], 4), (STATES, 9), (answer, 4)]
    assert [layout.positions_of(tokens=9, scored=4) for layout, _ in wanted] == [n for _, n in wanted]

"""Records of top_k and sampled: round trips, a second reader that shares no code with the first, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillab.cache.bits import bits_for
from distillab.cache.kinds import decode, encode
from distillab.cache.layout import TokensLayout
from distillab.cache.next_tokens import Sampled, SampledLayout, TopK, TopKLayout
from distillab.errors import CacheCorrupt, CacheMismatch, NumericsError, ShapeError
from tests.cache.section_rows import Page, assert_equal, sampled_row, top_k_row

seeds = st.integers(0, 2**32 - 1)


# top_k


@settings(deadline=None, max_examples=60)
@given(seeds, st.integers(1, 9), st.integers(1, 20), st.integers(0, 15), st.sampled_from(["companded8", "float16"]))
def test_top_k_by_the_page(seed: int, positions: int, k: int, ruled_out: int, values: str) -> None:
    rng = np.random.default_rng(seed)
    vocabulary = max(k, ruled_out + 1, int(rng.integers(1, 25)))
    row = top_k_row(rng, positions, k, vocabulary, ruled_out=ruled_out)
    layout = TopKLayout(k=k, id_bits=bits_for(vocabulary), values=values, temperature=1.0)
    record = encode(row, layout)
    read = decode([record], [positions], layout)
    assert isinstance(read, TopK)

    page = Page(record)
    tail, actual = page.numbers(positions, "e"), page.numbers(positions, "e")
    if values == "float16":
        logp = page.numbers(positions * k, "e")
    else:
        codes = page.take(positions * k)
        logp = [-np.inf if u == 255 else -1.5 * ((1 + 24 / 1.5) ** (u / 254) - 1) for u in codes]
    ids = page.packed(positions * k, layout.id_bits)
    assert page.left == b""
    assert ids == row.ids.reshape(-1).tolist() == read.ids.reshape(-1).tolist()
    for n in range(positions):
        kept = np.array(logp[n * k : (n + 1) * k])
        shift = np.log(np.exp(kept).sum() + np.exp(tail[n]))
        np.testing.assert_allclose(read.logp[n], kept - shift, atol=3e-6, rtol=1e-6)
        np.testing.assert_allclose(read.tail_logmass[n], tail[n] - shift, atol=3e-6, rtol=1e-6)
        assert read.actual_logp[n] == np.float32(actual[n])


@settings(deadline=None, max_examples=60)
@given(seeds, st.integers(1, 12), st.sampled_from(["companded8", "float16"]))
def test_top_k_stays_a_distribution(seed: int, k: int, values: str) -> None:
    rng = np.random.default_rng(seed)
    row = top_k_row(rng, 7, k, 12, ruled_out=int(rng.integers(0, 12)))
    layout = TopKLayout(k=k, id_bits=4, values=values, temperature=1.0)
    read = decode([encode(row, layout)], [7], layout)
    assert isinstance(read, TopK)
    mass = np.exp(read.logp.astype(np.float64)).sum(1) + np.exp(read.tail_logmass.astype(np.float64))
    np.testing.assert_allclose(mass, 1, atol=1e-6)
    assert (read.logp[:, 1:] <= read.logp[:, :-1]).all()
    np.testing.assert_array_equal(np.isneginf(read.logp), np.isneginf(row.logp))
    np.testing.assert_array_equal(np.isneginf(read.tail_logmass), np.isneginf(row.tail_logmass))


def test_all_of_a_vocabulary_can_be_kept() -> None:
    row = top_k_row(np.random.default_rng(0), 3, 105, 105)
    assert np.isneginf(row.tail_logmass).all()
    layout = TopKLayout(k=105, id_bits=7, values="float16", temperature=1.0)
    read = decode([encode(row, layout)], [3], layout)
    assert isinstance(read, TopK)
    assert np.isneginf(read.tail_logmass).all()
    np.testing.assert_allclose(read.logp, row.logp, atol=0.01)


def test_the_largest_id_of_qwens_vocabulary() -> None:
    row = TopK(
        np.array([[151_935, 131_072]], np.int32),
        np.log(np.array([[0.5, 0.25]], np.float32)),
        np.log(np.array([0.25], np.float32)),
        np.array([-np.inf], np.float32),
    )
    layout = TopKLayout(k=2, id_bits=bits_for(151_936), values="companded8", temperature=1.0)
    read = decode([encode(row, layout)], [1], layout)
    assert isinstance(read, TopK)
    assert read.ids.tolist() == [[151_935, 131_072]]
    assert read.actual_logp.tolist() == [-np.inf]
    with pytest.raises(CacheMismatch, match="151935"):
        encode(row, TopKLayout(k=2, id_bits=17, values="companded8", temperature=1.0))


@pytest.mark.parametrize("name", ["logp", "tail_logmass", "actual_logp"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_teachers_nan_is_refused(name: str, bad: float) -> None:
    row = top_k_row(np.random.default_rng(1), 4, 3, 9)
    getattr(row, name)[2] = bad
    layout = TopKLayout(k=3, id_bits=4, values="companded8", temperature=1.0)
    with pytest.raises(NumericsError, match=f"{name}: (nan|inf) at scored position 2"):
        encode(row, layout)


def test_what_is_no_distribution_is_refused() -> None:
    layout = TopKLayout(k=3, id_bits=4, values="float16", temperature=1.0)
    row = top_k_row(np.random.default_rng(1), 4, 3, 9)
    with pytest.raises(NumericsError, match="must fall"):
        encode(TopK(row.ids[:, ::-1], row.logp[:, ::-1], row.tail_logmass, row.actual_logp), layout)
    # renormalised over the kept ones, with the tail of the true distribution
    kept = row.logp - np.log(np.exp(row.logp).sum(1, keepdims=True))
    with pytest.raises(NumericsError, match="sum to one"):
        encode(TopK(row.ids, kept, row.tail_logmass, row.actual_logp), layout)
    with pytest.raises(ShapeError, match="k"):
        encode(top_k_row(np.random.default_rng(1), 4, 2, 9), layout)
    with pytest.raises(ShapeError):
        encode(TopK(row.ids, row.logp, row.tail_logmass, row.actual_logp[:3]), layout)
    negative = TopK(-1 - row.ids, row.logp, row.tail_logmass, row.actual_logp)
    with pytest.raises(CacheMismatch, match="do not fit"):
        encode(negative, layout)


# sampled


@settings(deadline=None, max_examples=60)
@given(seeds, st.integers(1, 9), st.integers(1, 70), st.sampled_from([1, 2, 30, 32_000]))
def test_sampled_by_the_page(seed: int, positions: int, draws: int, vocabulary: int) -> None:
    row = sampled_row(np.random.default_rng(seed), positions, draws, vocabulary)
    layout = SampledLayout(draws=draws, id_bits=bits_for(vocabulary), count_bits=bits_for(draws), temperature=1.0)
    record = encode(row, layout)
    read = decode([record], [positions], layout)
    assert isinstance(read, Sampled)
    assert_equal(
        read, Sampled(row.distinct, row.ids, row.counts, row.entropy_estimate.astype(np.float16).astype(np.float32))
    )

    page = Page(record)
    own = page.numbers(positions, "e")
    distinct = [x + 1 for x in page.packed(positions, layout.count_bits)]
    ids = page.packed(sum(distinct), layout.id_bits)
    others = [x + 1 for x in page.packed(sum(distinct) - positions, layout.count_bits)]
    assert page.left == b""
    counts = []
    for many in distinct:
        here, others = others[: many - 1], others[many - 1 :]
        counts += [*here, draws - sum(here)]
    assert (distinct, ids, counts) == (row.distinct.tolist(), row.ids.tolist(), row.counts.tolist())
    assert own == read.entropy_estimate.tolist()


def test_unsound_draws_are_refused() -> None:
    layout = SampledLayout(draws=5, id_bits=4, count_bits=3, temperature=1.0)

    def row(distinct: list[int], counts: list[int], own: list[float]) -> Sampled:
        ids = np.arange(len(counts), dtype=np.int32)
        return Sampled(np.array(distinct, np.int32), ids, np.array(counts, np.int32), np.array(own, np.float32))

    encode(row([1, 2], [5, 4, 1], [0.0, 1.0]), layout)
    for distinct, counts in (([1, 2], [4, 4, 1]), ([2, 1], [5, 0, 5]), ([1, 1], [5, 4, 1]), ([0, 1], [5])):
        with pytest.raises(ShapeError, match="sum to 5"):
            encode(row(distinct, counts, [0.0, 1.0]), layout)
    with pytest.raises(ShapeError, match="5 draws need 3"):
        encode(row([1], [5], [0.0]), SampledLayout(draws=5, id_bits=4, count_bits=2, temperature=1.0))
    for own in (np.nan, np.inf, -np.inf):
        with pytest.raises(NumericsError):
            encode(row([1, 1], [5, 5], [0.0, own]), layout)
    with pytest.raises(CacheMismatch, match="token ids"):
        encode(row([5, 5, 5, 5], [1] * 20, [0.0] * 4), layout)


def test_counts_beyond_the_draws_are_damage() -> None:
    row = Sampled(*(np.array(x, np.int32) for x in ([3], [1, 2, 3], [4, 3, 1])), np.array([1.0], np.float32))
    written = SampledLayout(draws=8, id_bits=4, count_bits=3, temperature=1.0)
    record = encode(row, written)
    with pytest.raises(CacheCorrupt, match="more than its draws"):
        decode([record], [1], SampledLayout(draws=7, id_bits=4, count_bits=3, temperature=1.0))


def test_sizes_that_the_docs_promise() -> None:
    """Bytes a token at V = 32,000 with every token scored, the tokens' own record among them."""
    rng = np.random.default_rng(0)
    positions = 100
    tokens = len(
        TokensLayout(id_bits=15).encode(rng.integers(0, 32_000, positions).astype(np.int32), np.ones(positions, bool))
    )
    for k, most in ((64, 200), (16, 60)):
        layout = TopKLayout(k=k, id_bits=15, values="companded8", temperature=1.0)
        record = encode(top_k_row(rng, positions, k, 32_000), layout)
        assert (len(record) + tokens) / positions <= most
    distinct = np.full(positions, 12, np.int32)
    counts = np.tile(np.array([39] + [1] * 11, np.int32), positions)
    drawn = Sampled(distinct, rng.integers(0, 32_000, 1200).astype(np.int32), counts, np.ones(positions, np.float32))
    record = encode(drawn, SampledLayout(draws=50, id_bits=15, count_bits=6, temperature=1.0))
    assert (len(record) + tokens) / positions <= 40

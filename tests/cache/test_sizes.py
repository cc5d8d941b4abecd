"""The sizes that are foretold are those of the records that are made."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillab.cache.activations import StateArray, States, StatesLayout
from distillab.cache.bits import bits_for
from distillab.cache.kinds import encode
from distillab.cache.layout import TokensLayout
from distillab.cache.next_tokens import Sampled, SampledLayout, TopK, TopKLayout
from distillab.cache.text import TextLayout
from distillab.errors import ShapeError


@given(scored=st.integers(1, 40), more=st.integers(1, 9), bits=st.integers(4, 20))
def test_tokens(scored: int, more: int, bits: int) -> None:
    layout, tokens = TokensLayout(id_bits=bits), scored + more
    made = layout.encode(np.arange(tokens, dtype=np.int32) % 16, np.ones(tokens, bool))
    assert layout.record_bytes(tokens=tokens, scored=scored) == len(made)


@given(scored=st.integers(1, 40), k=st.integers(1, 20), bits=st.integers(5, 18), wide=st.booleans())
def test_top_k(scored: int, k: int, bits: int, wide: bool) -> None:
    layout = TopKLayout(k=k, id_bits=bits, values="float16" if wide else "companded8", temperature=1.0)
    logp = np.full((scored, k), -np.log(k + 1), np.float32)
    tail = np.full(scored, -np.log(k + 1), np.float32)
    ids = np.tile(np.arange(k, dtype=np.int32), (scored, 1))
    made = encode(TopK(ids, logp, tail, tail), layout)
    assert layout.record_bytes(tokens=scored + 3, scored=scored) == len(made)


@given(distinct=st.lists(st.integers(1, 7), min_size=1, max_size=30), bits=st.integers(3, 18))
def test_sampled(distinct: list[int], bits: int) -> None:
    layout = SampledLayout(draws=7, id_bits=bits, count_bits=bits_for(7), temperature=1.0)
    counts = np.concatenate([[1] * (m - 1) + [8 - m] for m in distinct]).astype(np.int32)
    ids = np.concatenate([np.arange(m) for m in distinct]).astype(np.int32)
    scored = len(distinct)
    section = Sampled(np.array(distinct, np.int32), ids, counts, np.ones(scored, np.float32))
    made = encode(section, layout)
    found = layout.record_bytes(tokens=scored + 3, scored=scored, each=layout.values_each([section]))
    assert found == len(made)
    assert layout.record_bytes(tokens=scored + 3, scored=scored) >= found


@pytest.mark.parametrize("positions", ["answer", "all"])
@pytest.mark.parametrize(("store", "dtype"), [("float32", "f4"), ("float16", "f2"), ("bfloat16", "u2"), ("int8", "f4")])
def test_states(positions: Any, store: Any, dtype: str) -> None:
    arrays = (
        StateArray(name="layer.1", width=5, store=store),
        StateArray(name="layer.2", width=3, store="float32"),
    )
    layout = StatesLayout(kind="hidden_states", positions=positions, arrays=arrays)
    tokens, scored = 11, 7
    stored = tokens if positions == "all" else scored
    section = States({"layer.1": np.ones((stored, 5), dtype), "layer.2": np.ones((stored, 3), np.float32)})
    assert layout.record_bytes(tokens=tokens, scored=scored) == len(encode(section, layout))


def test_nobody_knows_the_length_of_an_answer() -> None:
    with pytest.raises(ShapeError, match="not known in advance"):
        TextLayout().record_bytes(tokens=3, scored=2)

"""Rows of a cache made of random numbers of the right shape: for speeds, which hardly depend on what the numbers say.

Shape letters: R rows, N scored positions of a row, K kept ids, V ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from distillab.cache.bits import bits_for
from distillab.cache.identity import CacheIdentity, TeacherSizes
from distillab.cache.kinds import Layout
from distillab.cache.layout import FORMAT_VERSION, Section, TokensLayout
from distillab.cache.next_tokens import Sampled, SampledLayout, TopK, TopKLayout
from distillab.cache.rows import CachedRow, row_digest
from distillab.records import TeacherProvenance

VOCABULARY = 32_000
POSITIONS = 100
# of the logits whose softmax the rows are cut from: 50 draws find about 12 different ids, as of a trained teacher
_LOGITS, _SPREAD = 400, 4.0


def top_k_layout(k: int) -> TopKLayout:
    """At 32,000 ids, a byte a log-probability."""
    return TopKLayout(k=k, id_bits=bits_for(VOCABULARY), values="companded8", temperature=1.0)


def sampled_layout(draws: int) -> SampledLayout:
    """At 32,000 ids."""
    return SampledLayout(draws=draws, id_bits=bits_for(VOCABULARY), count_bits=bits_for(draws), temperature=1.0)


def sections(layout: Layout, rows: int, *, positions: int = POSITIONS, seed: int = 0) -> list[Section]:
    """One section a row."""
    rng = np.random.default_rng(seed)
    if isinstance(layout, TopKLayout):
        return [_top_k(rng, layout.k, positions) for _ in range(rows)]
    assert isinstance(layout, SampledLayout)
    return [_sampled(rng, layout.draws, positions) for _ in range(rows)]


def rows_of(layouts: Sequence[Layout], rows: int, *, positions: int = POSITIONS, seed: int = 0) -> list[CachedRow]:
    """Whole rows: random ids, all but the first scored."""
    rng = np.random.default_rng(seed + 1)
    by_kind = {layout.kind: sections(layout, rows, positions=positions, seed=seed) for layout in layouts}
    mask = np.arange(positions + 1) > 0
    return [
        CachedRow(
            f"row{seed}-{number}",
            rng.integers(0, VOCABULARY, positions + 1, dtype=np.int32),
            mask,
            {kind: found[number] for kind, found in by_kind.items()},
        )
        for number in range(rows)
    ]


def identity_of_rows(layouts: Sequence[Layout], rows: Sequence[CachedRow], *, rows_per_shard: int) -> CacheIdentity:
    """Of a cache that holds them; the teacher is nobody."""
    digest = hashlib.sha256(b"".join(row_digest(row.input_ids, row.answer_mask) for row in rows)).hexdigest()
    return CacheIdentity(
        format_version=FORMAT_VERSION,
        teacher=TeacherProvenance(
            name="random", weights_sha256="0", parameters=0, dtype="float32", template_sha256="0"
        ),
        revision=None,
        sizes=TeacherSizes(blocks=1, width=1, heads=1, key_value_heads=1, head_width=1),
        tokenizer="random",
        template_sha256="0",
        width=VOCABULARY,
        source="random",
        rows=len(rows),
        rows_sha256=digest,
        tokens=TokensLayout(id_bits=bits_for(VOCABULARY)),
        layouts=tuple(layouts),
        compression="none",
        seed=0,
        rows_per_shard=rows_per_shard,
        batch_size=32,
        engine={},
    )


def _probabilities(rng: np.random.Generator, positions: int) -> np.ndarray:
    prob_NC = np.exp(rng.normal(size=(positions, _LOGITS)) * _SPREAD)
    return -np.sort(-prob_NC / prob_NC.sum(axis=1, keepdims=True), axis=1)


def _top_k(rng: np.random.Generator, k: int, positions: int) -> TopK:
    prob_NC = _probabilities(rng, positions)
    spread = np.argsort(rng.random((positions, _LOGITS)), axis=1) * (VOCABULARY // _LOGITS)
    logp_NC = np.log(prob_NC).astype(np.float32)
    return TopK(
        ids=np.ascontiguousarray(spread[:, :k], dtype=np.int32),
        logp=np.ascontiguousarray(logp_NC[:, :k]),
        tail_logmass=np.log(prob_NC[:, k:].sum(axis=1)).astype(np.float32),
        actual_logp=logp_NC[:, 1],
    )


def _sampled(rng: np.random.Generator, draws: int, positions: int) -> Sampled:
    counts_NC = np.stack([rng.multinomial(draws, prob) for prob in _probabilities(rng, positions)])
    _, places = np.nonzero(counts_NC)
    return Sampled(
        distinct=(counts_NC > 0).sum(axis=1).astype(np.int32),
        ids=(places * (VOCABULARY // _LOGITS)).astype(np.int32),
        counts=counts_NC[counts_NC > 0].astype(np.int32),
        entropy_estimate=rng.exponential(2.0, positions).astype(np.float32),
    )

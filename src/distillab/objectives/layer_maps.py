"""Map layers of the student to layers of the teacher."""

from __future__ import annotations

from distillab.config.layer_terms import LayerMap
from distillab.errors import ConfigError

Pairs = tuple[tuple[int, int], ...]


def layer_pairs(layers: LayerMap, *, student_blocks: int, teacher_blocks: int) -> Pairs:
    """Return the pairs (student layer, teacher layer) of a layer map, S student blocks and T teacher blocks.

    Blocks count from 1; layer 0 is the embeddings.

        last        (S, T)
        uniform     (i, round(i · T / S)) for i = 1 … S; halves are rounded up, and no block is mapped to the
                    embeddings. The last block is always mapped to the last one. Where T = k · S this is i -> i · k.
        embeddings  (0, 0)
        pairs       as they are given

    Args:
        layers: a name, or the pairs themselves.
        student_blocks: S.
        teacher_blocks: T.
    Raises:
        ConfigError: a pair names a layer that its model does not have, a pair is given twice, or there is none.
    Source: uniform is TinyBERT's mapping of its blocks (Jiao et al. 2020, arXiv:1909.10351), which is defined where
        T is a multiple of S; the rounding carries it to other sizes.

    >>> layer_pairs("uniform", student_blocks=2, teacher_blocks=6)
    ((1, 3), (2, 6))
    >>> layer_pairs("uniform", student_blocks=4, teacher_blocks=6)
    ((1, 2), (2, 3), (3, 5), (4, 6))
    """
    if layers == "last":
        return ((student_blocks, teacher_blocks),)
    if layers == "embeddings":
        return ((0, 0),)
    if layers == "uniform":
        # in whole numbers: round() rounds halves to even, and a float may miss the half
        return tuple(
            (block, max(1, (2 * block * teacher_blocks + student_blocks) // (2 * student_blocks)))
            for block in range(1, student_blocks + 1)
        )
    _check(layers, student_blocks, teacher_blocks)
    return layers


def _check(pairs: Pairs, student_blocks: int, teacher_blocks: int) -> None:
    where = f"layers: {[list(pair) for pair in pairs]}"
    fix = "write pairs [student, teacher] such as [[2, 4], [4, 8]], or last, uniform, embeddings"
    if not pairs:
        raise ConfigError("A layer map needs at least one pair.", where=where, fix=fix)
    sides = (("student", student_blocks, 0), ("teacher", teacher_blocks, 1))
    wrong = [
        f"{list(pair)}: the {side} has the layers 0 (embeddings) to {blocks}, not {pair[place]}"
        for pair in pairs
        for side, blocks, place in sides
        if not 0 <= pair[place] <= blocks
    ]
    if wrong:
        raise ConfigError("A layer map names a layer that the model does not have.", where=where, facts=wrong, fix=fix)
    twice = sorted({pair for pair in pairs if pairs.count(pair) > 1})
    if twice:
        raise ConfigError(
            "The same pair of layers is given twice, which would double its weight.",
            where=where,
            facts=[f"twice: {list(pair)}" for pair in twice],
            fix="write each pair once; to weigh layers differently, write the term once for each",
        )

"""How many rows a head is applied to at once, so that nothing of size tokens × vocabulary is ever alive.

Rows are multiplied with the head in tiles of at most so many float32 bytes, but at least so many rows: products of few
rows are slow. What reads a tile's logits does so in pieces that stay in a core's cache. Measured: see
docs/performance.md.
"""

from __future__ import annotations

import torch

LEAST_ROWS = 128
TILE_BYTES = {"cpu": 32 << 20}
TILE_BYTES_GPU = 256 << 20
PIECE_BYTES = {"cpu": 2 << 20}


def tiles(rows: int, vocabulary: int, device: torch.device) -> list[slice]:
    """The rows in tiles that are multiplied with the head at once."""
    return _cut(rows, max(LEAST_ROWS, TILE_BYTES.get(device.type, TILE_BYTES_GPU) // (4 * vocabulary)))


def pieces(rows: int, vocabulary: int, device: torch.device) -> list[slice]:
    """The rows of a tile in pieces that are read at once; one piece where there is no cache to fit into."""
    return _cut(rows, PIECE_BYTES[device.type] // (4 * vocabulary) if device.type in PIECE_BYTES else rows)


def _cut(rows: int, size: int) -> list[slice]:
    size = max(1, size)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]

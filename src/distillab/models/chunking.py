"""Choose how many rows a head is applied to at once, so that nothing of size tokens × vocabulary is in memory.

Rows are multiplied with the head in chunks of at most so many float32 bytes, but at least so many rows: products of few
rows are slow. A chunk's logits are read in sub-chunks that fit into a core's cache. Measured: see
docs/performance.md.
"""

from __future__ import annotations

import torch

LEAST_ROWS = 128
CHUNK_BYTES = {"cpu": 32 << 20}
CHUNK_BYTES_GPU = 256 << 20
SUB_CHUNK_BYTES = {"cpu": 2 << 20}


def chunks(rows: int, vocabulary: int, device: torch.device) -> list[slice]:
    """Return the rows in chunks that are multiplied with the head at once."""
    return _cut(rows, max(LEAST_ROWS, CHUNK_BYTES.get(device.type, CHUNK_BYTES_GPU) // (4 * vocabulary)))


def sub_chunks(rows: int, vocabulary: int, device: torch.device) -> list[slice]:
    """Return the rows of a chunk in sub-chunks that are read at once; one if there is no cache to fit into."""
    return _cut(rows, SUB_CHUNK_BYTES[device.type] // (4 * vocabulary) if device.type in SUB_CHUNK_BYTES else rows)


def _cut(rows: int, size: int) -> list[slice]:
    size = max(1, size)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]

"""Pack whole numbers at a fixed number of bits: a token id of a vocabulary of 32,000 takes 15 bits, not 32.

Layout: a stream of numbers is one long little-endian binary number. Value i has the bits i·b … i·b + b - 1, and
bit j of the stream is bit j mod 8 (counted from the least) of byte j div 8. Eight values take exactly b bytes, and a
stream is filled up with zeros to a whole group of eight, so streams of the same b can be put one after another and
unpacked in one call.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

GROUP = 8


def bits_for(values: int) -> int:
    """Return the bits that this number of different values needs, at least one: ceil(log2 values).

    >>> bits_for(32_000), bits_for(151_936), bits_for(2), bits_for(1)
    (15, 18, 1, 1)
    """
    return max(1, (values - 1).bit_length())


def packed_bytes(count: int, bits: int) -> int:
    """Return the length of the stream of `count` values."""
    return -(-count // GROUP) * bits


def pack(values: npt.NDArray[np.integer], bits: int) -> bytes:
    """Return the stream of `values`.

    Args:
        values: (n,) whole numbers from 0 to 2**bits - 1; checked by the caller.
        bits: 1 to 32.
    Returns:
        `packed_bytes(n, bits)` bytes.
    """
    groups = -(-len(values) // GROUP)
    # one machine word a group and 64 bits, made column by column: value i of all groups at once
    words_WG = np.zeros((-(-GROUP * bits // 64), groups), np.uint64)
    columns_8G = np.zeros((GROUP, groups), np.uint64)
    whole = len(values) // GROUP
    columns_8G[:, :whole] = values[: whole * GROUP].reshape(whole, GROUP).T
    if whole < groups:
        columns_8G[: len(values) - whole * GROUP, whole] = values[whole * GROUP :]
    for i in range(GROUP):
        word, shift = divmod(i * bits, 64)
        words_WG[word] |= columns_8G[i] << np.uint64(shift)
        if shift + bits > 64:
            words_WG[word + 1] |= columns_8G[i] >> np.uint64(64 - shift)
    little = np.ascontiguousarray(words_WG.T).astype("<u8", copy=False)
    return little.view(np.uint8).reshape(groups, 8 * len(words_WG))[:, :bits].tobytes()


def unpack(stream: Bytes, bits: int) -> npt.NDArray[np.uint32]:
    """Return all values of a stream, including the zeros that fill up its last group.

    Args:
        stream: whole groups of `bits` bytes each; several streams one after another are one stream.
        bits: 1 to 32.
    Returns:
        (8 · groups,) in new memory.
    """
    groups = len(stream) // bits
    if not groups:
        return np.empty(0, np.uint32)
    # every value is read as the four (or eight) bytes that it lies in, so up to seven bytes beyond the end
    buffer = np.empty(len(stream) + 8, np.uint8)
    buffer[: len(stream)] = stream
    buffer[len(stream) :] = 0
    values_G8 = np.empty((groups, GROUP), np.uint32)
    mask = (1 << bits) - 1
    for i in range(GROUP):
        first, shift = divmod(i * bits, 8)
        if shift + bits <= 32:
            near = np.ndarray((groups,), "<u4", buffer, first, (bits,))
            values_G8[:, i] = (near >> np.uint32(shift)) & np.uint32(mask)
        else:
            wide = np.ndarray((groups,), "<u8", buffer, first, (bits,))
            values_G8[:, i] = (wide >> np.uint64(shift)) & np.uint64(mask)
    return values_G8.reshape(-1)


def unpack_streams(streams: Sequence[Bytes], counts: Sequence[int], bits: int) -> npt.NDArray[np.uint32]:
    """Return the values of several streams, one after another, decoded at once.

    Args:
        streams: each of `packed_bytes(count, bits)` bytes.
        counts: values of each.
    """
    values = unpack(np.concatenate(streams), bits)
    if not any(count % GROUP for count in counts):
        return values
    kept, start = [], 0
    for count in counts:
        kept.append(values[start : start + count])
        start += -(-count // GROUP) * GROUP
    return np.concatenate(kept)

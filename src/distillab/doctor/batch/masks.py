"""Reads attention masks of every kind: a number a token, numbers added to scores, and tables of who reads whom.

Shapes: B sequences, H heads, L positions; of a table the first L is the query and the second the key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

Ints = NDArray[np.int64]
# what is added to a score so that nothing is read: −inf, the least number of a format, −1e9, −10000
HIDES = -9_999.0
MAX_ENTRIES = 2**24


@dataclass(frozen=True, eq=False)
class GivenMasks:
    """The masks of one batch.

    Attributes:
        rows: (L,) of every row: 0 hides a token, any other number shows it; None: there are tables alone.
        tables: (L, L) of every row, True where the first position may read the second; None: there are none.
        added: the numbers are made to be added to scores (0 shows, −inf hides), and were turned into the others.
        factors: the tables hold 0 and 1 as floats, to be multiplied.
    """

    rows: list[Ints] | None
    tables: list[NDArray[np.bool_]] | None = None
    added: bool = False
    factors: bool = False


def read_masks(value: object, lengths: Sequence[int]) -> GivenMasks | str | None:
    """Masks that are no plain table of integers; a string is the reason why they cannot be judged.

    Args:
        value: as it stands in the batch.
        lengths: of the rows of input ids.
    Returns:
        None where these are integers or booleans, a number a token: they are read like ids.
    """
    if isinstance(value, (torch.Tensor, np.ndarray)):
        if value.ndim > 2:
            return _tables(value, lengths)
        # a size that is not that of the ids is reported where ids are read; nothing of any size is copied before
        size = int(np.prod(value.shape, dtype=object))
        read = _is_float(value) and _is_plain(value) and value.ndim > 0 and 0 < size <= MAX_ENTRIES
        return _lines(list(_floats(value).reshape(-1, value.shape[-1]))) if read else None
    depth = depth_of(value)
    if depth > 2:
        return f"attention_mask has {depth} dimensions and is not judged"
    rows = value if depth == 2 else [value]
    if not isinstance(rows, (list, tuple)) or not all(isinstance(row, (list, tuple)) for row in rows):
        return None
    items = [item for row in rows for item in row]
    if not any(isinstance(item, float) for item in items) or not all(isinstance(item, (int, float)) for item in items):
        return None
    return _lines([np.array(row, dtype=np.float64) for row in rows])


def of_integers(rows: list[Ints]) -> GivenMasks:
    """Masks of integers or booleans, a number a token: 0 beside -10000 is made to be added too."""
    values = np.concatenate(rows) if rows else np.array([], dtype=np.int64)
    added = bool(len(values)) and int(values.min()) <= HIDES and bool(((values == 0) | (values <= HIDES)).all())
    return GivenMasks([(row > HIDES).astype(np.int64) for row in rows] if added else rows, added=added)


def depth_of(value: object) -> int:
    """The dimensions of a tensor, an array, or lists in lists of them or of numbers."""
    depth = 0
    while isinstance(value, (list, tuple)) and depth < 5:
        depth, value = depth + 1, value[0] if value else None
    return depth + (value.ndim if isinstance(value, (torch.Tensor, np.ndarray)) else 0)


def _is_float(value: torch.Tensor | NDArray[np.generic]) -> bool:
    return value.is_floating_point() if isinstance(value, torch.Tensor) else value.dtype.kind == "f"


def _is_plain(value: torch.Tensor | NDArray[np.generic]) -> bool:
    if isinstance(value, torch.Tensor):
        stored = value.layout == torch.strided and value.device.type != "meta"
        return stored and not (value.is_complex() or value.is_quantized)
    return value.dtype.kind in "biuf"


def _floats(value: torch.Tensor | NDArray[np.generic]) -> NDArray[np.float64]:
    if isinstance(value, torch.Tensor):
        return value.detach().to(device="cpu", dtype=torch.float64).numpy()
    return value.astype(np.float64)


def _lines(rows: list[NDArray[np.float64]]) -> GivenMasks | str:
    values = np.concatenate(rows) if rows else np.array([])
    whole = bool(np.isfinite(values).all()) and bool((values == np.round(values)).all())
    # a batch without padding, in floats: without a further sign, zeros that are added
    if whole and bool((values >= 0).all()) and bool(values.any()):
        return GivenMasks([row.astype(np.int64) for row in rows])
    if bool(((values == 0) | (values <= HIDES)).all()):
        return GivenMasks([(row > HIDES).astype(np.int64) for row in rows], added=True)
    return "attention_mask holds numbers that are neither 0 and 1 nor added to scores (0 and −inf), and is not judged"


def _tables(value: torch.Tensor | NDArray[np.generic], lengths: Sequence[int]) -> GivenMasks | str:
    shape = tuple(int(side) for side in value.shape)
    unread = f"attention_mask of the shape {shape} is not judged"
    if not _is_plain(value):
        return unread
    if len(shape) not in (3, 4) or 0 in shape or len(set(lengths)) != 1:
        return unread
    length = lengths[0]
    if shape[0] not in (1, len(lengths)) or shape[-1] != length or shape[-2] not in (1, length):
        return unread
    if len(lengths) * length * length > MAX_ENTRIES:
        return f"{unread}: it is too large"
    one = value[:, 0] if len(shape) == 4 else value
    logical = one.dtype == torch.bool if isinstance(one, torch.Tensor) else one.dtype.kind == "b"
    parts = [_floats(part) for part in one]
    if any(np.isnan(part).any() for part in parts):
        return f"{unread}: it holds NaN"
    added = not logical and not any((part > 0).any() for part in parts)
    reads = [np.broadcast_to(part > HIDES if added else part > 0, (length, length)) for part in parts]
    return GivenMasks(
        None, reads * (len(lengths) // len(reads)), added=added, factors=_is_float(one) and not added and not logical
    )

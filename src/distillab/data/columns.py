"""Columns of numbers that grow row by row, in memory or in the files of a folder, which are memory-mapped when read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar, overload

import numpy as np
import numpy.typing as npt

T = TypeVar("T")
Columns = Mapping[str, npt.NDArray[Any]]
Dtypes = Mapping[str, type[np.generic]]


class MadeWhenRead(Sequence[T]):
    """A sequence over columns that makes an item when it is read."""

    def _at_place(self, place: int) -> T:
        """Return the item at a place, counted from 0."""
        raise NotImplementedError

    @overload
    def __getitem__(self, at: int) -> T: ...

    @overload
    def __getitem__(self, at: slice) -> list[T]: ...

    def __getitem__(self, at: int | slice) -> T | list[T]:
        if isinstance(at, slice):
            return [self._at_place(place) for place in range(*at.indices(len(self)))]
        return self._at_place(range(len(self))[at])

    def __iter__(self) -> Iterator[T]:
        return map(self._at_place, range(len(self)))


class Chosen(MadeWhenRead[T]):
    """The items of a sequence at some places."""

    def __init__(self, items: Sequence[T], places: Sequence[int]) -> None:
        self._items, self._places = items, places

    def __len__(self) -> int:
        return len(self._places)

    def _at_place(self, place: int) -> T:
        return self._items[self._places[place]]


class ColumnWriter:
    """Append numbers to columns.

    Args:
        dtypes: of each column.
        folder: gets one file for each column; None: in memory.
    """

    def __init__(self, dtypes: Dtypes, folder: Path | None) -> None:
        self._dtypes = dtypes
        self._open = ExitStack()
        self._sinks: dict[str, BinaryIO] = {
            name: BytesIO() if folder is None else self._open.enter_context((folder / name).open("xb"))
            for name in dtypes
        }

    def append(self, columns: Mapping[str, Any]) -> None:
        """Append arrays or lists to some of the columns."""
        for name, values in columns.items():
            self._sinks[name].write(np.ascontiguousarray(values, dtype=self._dtypes[name]).data)

    def close(self) -> None:
        """Close the files."""
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def in_memory(self) -> Columns:
        """Return the columns that were written in memory."""
        found = {name: sink.getbuffer() for name, sink in self._sinks.items() if isinstance(sink, BytesIO)}
        return {name: np.frombuffer(content, self._dtypes[name]) for name, content in found.items()}


def mapped_columns(folder: Path, dtypes: Dtypes) -> Columns:
    """Map the files that a `ColumnWriter` has written."""
    return {name: _mapped(folder / name, dtype) for name, dtype in dtypes.items()}


def _mapped(file: Path, dtype: type[np.generic]) -> npt.NDArray[Any]:
    if not file.stat().st_size:  # which cannot be mapped
        return np.empty(0, dtype)
    # a plain array: slices of `memmap` objects are slow
    return np.memmap(file, dtype=dtype, mode="r").view(np.ndarray)

"""Find the row of a digest: 12 bytes of memory a row, confirmed by the shard's index."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from distillab.cache.opened import OpenShards

Prefixes = npt.NDArray[np.uint64]


class RowFinder:
    """Find rows by the first eight bytes of their digests, sorted, then compare all sixteen.

    Two of ten million rows begin alike with a chance of three in a million; then both are compared.

    Args:
        shards: of the cache.
    """

    def __init__(self, shards: OpenShards) -> None:
        self._shards, self._size = shards, shards.identity.rows_per_shard
        present = shards.count_rows()
        prefixes = np.empty(present, np.uint64)
        self._rows = np.empty(present, np.uint32 if shards.identity.rows < 2**32 else np.uint64)
        at = 0
        for number, index in shards.open_all():
            until = at + len(index)
            prefixes[at:until] = _prefixes(index.digests)
            self._rows[at:until] = np.arange(len(index), dtype=np.uint64) + number * self._size
            at = until
        # stable, so that of two equal rows the first is found
        order = np.argsort(prefixes, kind="stable")
        self._prefixes: Prefixes = prefixes[order]
        del prefixes  # of ten million rows: 80 MB that the next line needs
        self._rows = self._rows[order]

    def find(self, digests: Sequence[bytes]) -> list[int | None]:
        """Return the number of the first row with each digest; None where there is none.

        Raises:
            CacheCorrupt: the shard of a row is damaged.
        """
        if not len(digests):
            return []
        wanted = _prefixes(np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16))
        starts = np.searchsorted(self._prefixes, wanted, side="left").tolist()
        return [self._confirmed(digest, start) for digest, start in zip(digests, starts, strict=True)]

    def _confirmed(self, digest: bytes, start: int) -> int | None:
        prefix = _prefixes(np.frombuffer(digest, np.uint8).reshape(1, 16))[0]
        while start < len(self._prefixes) and self._prefixes[start] == prefix:
            row = int(self._rows[start])
            number, place = divmod(row, self._size)
            if self._shards.index(number).digests[place].tobytes() == digest:
                return row
            start += 1
        return None


def _prefixes(digests_R16: npt.NDArray[np.uint8]) -> Prefixes:
    """Return (R,) the first eight bytes of each digest as a number. Only equality is used, so byte order is free."""
    return np.ascontiguousarray(digests_R16[:, :8]).view("<u8").reshape(-1)

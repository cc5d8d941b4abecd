"""A real process that builds a sample cache: python -m tests.cache.writer_process FOLDER READY GO LIMIT

It makes the file READY when it has opened the cache, waits for the file GO, and then writes. LIMIT: bytes that no file
of this process may exceed, which is one way for a disk to be full; 0: none.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

from distillab.cache.writer import CacheWriter
from distillab.errors import CacheMismatch, StorageError
from tests.cache.cache_samples import sample_identity, sample_rows

KINDS = ("top_k", "text")
ROWS = sample_rows(40, KINDS)
IDENTITY = sample_identity(ROWS, KINDS)
EXITS = {StorageError: 3, CacheMismatch: 4}


def main(folder: Path, ready: Path, go: Path, limit: int) -> int:
    try:
        writer = CacheWriter(folder, IDENTITY)
        ready.touch()
        while not go.exists():
            time.sleep(0.002)
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        for number in writer.todo():
            writer.write(number, ROWS[2 * number : 2 * number + 2])
    except (StorageError, CacheMismatch) as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)  # standard error may be a file
        sys.stderr.write(f"{error}\n")
        return EXITS[type(error)]
    return 0


if __name__ == "__main__":
    folder, ready, go = map(Path, sys.argv[1:4])
    sys.exit(main(folder, ready, go, int(sys.argv[4])))

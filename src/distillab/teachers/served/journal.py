"""Answers of servers as they came, on disk before they are used: what is paid for once is not asked for again.

A file of records: magic (4 bytes), key (16), xxh3-64 of the stored bytes (8), their length (4), the answer (zlib).
A record that a killed process left unfinished is cut off when the file is opened again.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import threading
import weakref
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xxhash import xxh3_64_intdigest, xxh3_128_digest

from distillab.errors import CacheCorrupt, CacheMismatch
from distillab.files import append

FOLDER = "served"
"""Name of the folder, in that of a run."""

ANSWERS = "served.answers"
_LOCK = "served.lock"
_HEAD = struct.Struct("<4s16sQI")
_MAGIC = b"dsa1"


def answer_key(*, server: str, model: str | None, tokenizer: str, path: str, body: Mapping[str, Any]) -> bytes:
    """Return the key of an answer: a hash of all that decides it. No secret is part of it.

    Args:
        server: address. tokenizer: fingerprint of the tokenizer that made the ids.
    """
    text = json.dumps([server, model, tokenizer, path, body], sort_keys=True, separators=(",", ":"))
    return xxh3_128_digest(text.encode())


class AnswerJournal:
    """The answers in a folder. One process writes at a time; its threads may share the object.

    Raises:
        CacheMismatch: another process writes here.
        CacheCorrupt: the file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / ANSWERS
        self._lock = threading.Lock()
        self._held = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._held)
            raise CacheMismatch(
                "Another process writes answers of a server into this folder.",
                where=str(folder),
                fix="wait for its end, or use another folder",
            ) from error
        self._release = weakref.finalize(self, os.close, self._held)
        try:
            self._places = self._opened()
        except CacheCorrupt:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._places)

    def close(self) -> None:
        """Let another process write."""
        self._release()

    def get(self, key: bytes) -> bytes | None:
        """Return a stored answer; None if there is none.

        Raises:
            CacheCorrupt: its bytes are damaged.
        """
        place = self._places.get(key)
        if place is None:
            return None
        start, length, checksum = place
        with self.path.open("rb") as stream:
            stream.seek(start)
            stored = stream.read(length)
        if xxh3_64_intdigest(stored) != checksum:
            raise self._damaged(start)
        return zlib.decompress(stored)

    def store_answer(self, key: bytes, content: bytes) -> None:
        """Store an answer; when this returns, it survives a power cut.

        Raises:
            StorageError: the disk is full.
        """
        stored = zlib.compress(content, 1)
        checksum = xxh3_64_intdigest(stored)
        with self._lock:
            if key in self._places:
                return
            append(self.path, _HEAD.pack(_MAGIC, key, checksum, len(stored)) + stored)
            self._places[key] = (self._end + _HEAD.size, len(stored), checksum)
            self._end += _HEAD.size + len(stored)

    def _opened(self) -> dict[bytes, tuple[int, int, int]]:
        """Return where each answer is, and cut off an unfinished record."""
        places: dict[bytes, tuple[int, int, int]] = {}
        self._end = 0
        if not self.path.exists():
            return places
        size = self.path.stat().st_size
        with self.path.open("rb") as stream:
            while len(head := stream.read(_HEAD.size)) == _HEAD.size:
                magic, key, checksum, length = _HEAD.unpack(head)
                if magic != _MAGIC:
                    raise self._damaged(self._end)
                if self._end + _HEAD.size + length > size:
                    break
                places[key] = (self._end + _HEAD.size, length, checksum)
                self._end += _HEAD.size + length
                stream.seek(self._end)
        if self._end < size:
            os.truncate(self.path, self._end)
        return places

    def _damaged(self, start: int) -> CacheCorrupt:
        return CacheCorrupt(
            "The stored answers of a server are damaged.",
            where=f"{self.path}, byte {start:,}",
            fix="restore the file from a copy, or remove it: the answers are then asked for again",
        )

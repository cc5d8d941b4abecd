"""Answers of servers as they came, on disk before they are used: what is paid for once is not asked for again.

A file of records: magic (4 bytes), key (16), what it took (20: requests; tokens of prompt, cache and completion;
seconds), xxh3-64 of this and of the stored bytes (8), their length (4), the answer (zlib). A record that a killed
process left unfinished is cut off when the file is opened again. Each writer of a folder has a file of its own, and
reads those of the others.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import threading
import weakref
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xxhash import xxh3_64_intdigest, xxh3_128_digest

from distillab.errors import CacheCorrupt, CacheMismatch
from distillab.files import append
from distillab.teachers.served.exchange import Paid, Usage

FOLDER = "served"
"""Name of the folder, in that of a run."""

ANSWERS = "served.answers"
NOT_KEPT = b"\0" * 16
"""The key of answers that are not kept; the record of each has what it took."""

_HEAD = struct.Struct("<4s16s20sQI")
_PAID = struct.Struct("<IIIIf")
_MAGIC = b"dsa2"


def answer_key(*, server: str, model: str | None, tokenizer: str, path: str, body: Mapping[str, Any]) -> bytes:
    """Return the key of an answer: a hash of all that decides it. No secret is part of it.

    Args:
        server: address. tokenizer: fingerprint of the tokenizer that made the ids.
    """
    text = json.dumps([server, model, tokenizer, path, body], sort_keys=True, separators=(",", ":"))
    return xxh3_128_digest(text.encode())


def file_of(worker: int, workers: int) -> str:
    """Return the name of the file into which one of several workers writes; of a worker alone: `ANSWERS`."""
    return ANSWERS if workers == 1 else f"served-{worker}-of-{workers}.answers"


class AnswerJournal:
    """The answers in a folder. One process writes a file at a time; its threads may share the object.

    Args:
        file: into which answers are written. Those in the folder's other files are read, later ones too.
    Raises:
        CacheMismatch: another process writes here.
        CacheCorrupt: a file is damaged.
    """

    def __init__(self, folder: Path, file: str = ANSWERS) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / file
        self._lock = threading.Lock()
        self._held = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._held)
            raise CacheMismatch(
                "Another process writes answers of a server into this folder.",
                where=str(self.path),
                fix="wait for its end, or use another folder",
            ) from error
        self._release = weakref.finalize(self, os.close, self._held)
        self._places: dict[bytes, _Place] = {}
        self._ends = {self.path: 0}
        try:
            self._read(self.path)
            self._read_others()
        except CacheCorrupt:
            self.close()
            raise
        if self.path.exists() and self._ends[self.path] < self.path.stat().st_size:
            os.truncate(self.path, self._ends[self.path])

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
        if key not in self._places:
            with self._lock:
                self._read_others()
        place = self._places.get(key)
        if place is None:
            return None
        with place.path.open("rb") as stream:
            stream.seek(place.start + _HEAD.size)
            stored = stream.read(place.length)
        if xxh3_64_intdigest(_packed(place.paid) + stored) != place.checksum:
            raise _damaged(place.path, place.start)
        return zlib.decompress(stored)

    def store_answer(self, key: bytes, content: bytes, paid: Paid) -> None:
        """Store an answer and what it took; when this returns, it survives a power cut.

        An answer with a key that is there is not stored again, but for `NOT_KEPT`.

        Raises:
            StorageError: the disk is full.
        """
        stored, took = zlib.compress(content, 1), _packed(paid)
        checksum = xxh3_64_intdigest(took + stored)
        with self._lock:
            if key in self._places and key != NOT_KEPT:
                return
            append(self.path, _HEAD.pack(_MAGIC, key, took, checksum, len(stored)) + stored)
            self._places[key] = place = _Place(self.path, self._ends[self.path], len(stored), checksum, paid)
            self._ends[self.path] = place.end

    def _read_others(self) -> None:
        """Read what other writers have stored since."""
        for path in _files(self.path.parent):
            if path != self.path and path.stat().st_size > self._ends.get(path, 0):
                self._read(path)

    def _read(self, path: Path) -> None:
        for key, place in _places(path, self._ends.get(path, 0)):
            self._places.setdefault(key, place)
            self._ends[path] = place.end


def paid_in(folder: Path) -> Paid:
    """Return what all answers of a journal took, of all writers and starts; nothing if there is none.

    Raises:
        CacheCorrupt: a file is damaged.
    """
    return sum((place.paid for path in _files(folder) for _, place in _places(path)), Paid())


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("served*.answers"))


@dataclass(frozen=True)
class _Place:
    """A record: where it starts in its file, how long its answer is."""

    path: Path
    start: int
    length: int
    checksum: int
    paid: Paid

    @property
    def end(self) -> int:
        return self.start + _HEAD.size + self.length


def _places(path: Path, start: int = 0) -> Iterator[tuple[bytes, _Place]]:
    """Yield key and place of each whole record from a byte on."""
    if not path.exists():
        return
    size = path.stat().st_size
    with path.open("rb") as stream:
        stream.seek(start)
        while len(head := stream.read(_HEAD.size)) == _HEAD.size:
            magic, key, took, checksum, length = _HEAD.unpack(head)
            if magic != _MAGIC:
                raise _damaged(path, start)
            requests, prompt, cached, completion, seconds = _PAID.unpack(took)
            place = _Place(path, start, length, checksum, Paid(Usage(prompt, cached, completion), requests, seconds))
            if place.end > size:
                return
            yield key, place
            start = place.end
            stream.seek(start)


def _packed(paid: Paid) -> bytes:
    usage = paid.usage
    return _PAID.pack(paid.requests, usage.prompt, usage.cached, usage.completion, paid.seconds)


def _damaged(path: Path, start: int) -> CacheCorrupt:
    return CacheCorrupt(
        "The stored answers of a server are damaged.",
        where=f"{path}, byte {start:,}",
        fix="restore the file from a copy, or remove it: the answers are then asked for again",
    )

"""Where a cache's bytes come from: a folder of this machine, or a place that fsspec reaches (s3://bucket/cache).

File names are relative to the cache, with "/" between their parts; a merged cache has names that begin with "../".
"""

from __future__ import annotations

import mmap
import os
import posixpath
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import fsspec

from distillab.cache.shards import Raw
from distillab.errors import CacheCorrupt, CacheError, ConfigError
from distillab.places import local_path

Range = tuple[str, int, int]
"""File, first byte, the byte behind the last."""

# A map keeps a file open, and a process may have a thousand or so of them.
_OPEN_MAPS = 128

# What fsspec needs besides itself, where it is no package of the same name.
_EXTRA_OF = {"s3": "pip install 'distillab[s3]'", "s3a": "pip install 'distillab[s3]'"}


class Source(Protocol):
    """Reads parts of a cache's files."""

    @property
    def location(self) -> str:
        """The cache's folder or URL."""
        ...

    def place(self, file: str) -> str:
        """A file's whole name, for messages."""
        ...

    def whole(self, file: str) -> bytes | None:
        """All bytes of a file; None where it is not there."""
        ...

    def files(self, folder: str) -> list[str]:
        """Names of the files in a folder of the cache, in their order; none where there is no such folder."""
        ...

    def size(self, file: str) -> int | None:
        """Bytes of a file, None where it is not there or asking for it costs a request a file."""
        ...

    def read(self, ranges: Sequence[Range]) -> list[Raw]:
        """The bytes of many ranges.

        Raises:
            CacheCorrupt: a file is not there, or ends before a range does.
        """
        ...


def open_source(location: str | Path) -> Source:
    """A folder, or a URL that fsspec knows.

    Raises:
        ConfigError: a package that this kind of URL needs is not installed, or there is no such kind.
    """
    text = str(location)
    return RemoteSource(text) if "://" in text else LocalSource(local_path(text))


class LocalSource:
    """A folder of this machine. Files are memory-mapped, so that what is read often stays in the page cache."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._maps: OrderedDict[str, memoryview] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "_maps": OrderedDict()}

    @property
    def location(self) -> str:
        """The folder."""
        return str(self.folder)

    def place(self, file: str) -> str:
        """The file's path."""
        return os.path.normpath(self.folder / file)

    def whole(self, file: str) -> bytes | None:
        """All bytes of a file; None where it is not there."""
        try:
            return (self.folder / file).read_bytes()
        except FileNotFoundError:
            return None

    def files(self, folder: str) -> list[str]:
        """Names of the files in a folder of the cache, in their order."""
        there = self.folder / folder
        return sorted(f"{folder}/{path.name}" for path in there.iterdir()) if there.is_dir() else []

    def size(self, file: str) -> int | None:
        """Bytes of a file, None where it is not there."""
        try:
            return (self.folder / file).stat().st_size
        except FileNotFoundError:
            return None

    def read(self, ranges: Sequence[Range]) -> list[Raw]:
        """Views into the files: they are good for as long as they are held."""
        found: list[Raw] = []
        for file, start, end in ranges:
            view = self._map(file)
            if end > len(view):
                raise too_short(self.place(file), f"{len(view):,} bytes; bytes up to {end:,} were wanted")
            found.append(view[start:end])
        return found

    def _map(self, file: str) -> memoryview:
        view = self._maps.get(file)
        if view is not None:
            self._maps.move_to_end(file)
            return view
        try:
            with (self.folder / file).open("rb") as stream:
                # an empty file cannot be mapped
                empty = os.fstat(stream.fileno()).st_size == 0
                view = memoryview(b"" if empty else mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        except FileNotFoundError as error:
            raise not_there(self.place(file)) from error
        self._maps[file] = view
        if len(self._maps) > _OPEN_MAPS:
            # not closed: a view that is still in use keeps its map, and the last one closes it
            self._maps.popitem(last=False)
        return view


class RemoteSource:
    """Files behind fsspec; many ranges are asked for at once. Credentials and endpoints: from the environment."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._opened: tuple[int, Any, str] | None = None
        self._fs()

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "_opened": None}

    @property
    def location(self) -> str:
        """The URL."""
        return self.url

    def place(self, file: str) -> str:
        """The file's URL."""
        return _joined(self.url, file)

    def whole(self, file: str) -> bytes | None:
        """All bytes of a file; None where it is not there."""
        fs, root = self._fs()
        (got,) = fs.cat_ranges([_joined(root, file)], [None], [None], on_error="return")
        if isinstance(got, FileNotFoundError):
            return None
        if isinstance(got, Exception):
            raise self._unreadable(file, got) from got
        content: bytes = got
        return content

    def files(self, folder: str) -> list[str]:
        """Names of the files in a folder of the cache, in their order."""
        fs, root = self._fs()
        try:
            fs.invalidate_cache()
            names = fs.ls(_joined(root, folder), detail=False)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._unreadable(folder, error) from error
        return sorted(f"{folder}/{posixpath.basename(name)}" for name in names if not name.endswith("/"))

    def size(self, file: str) -> int | None:
        """None: it would cost a request a file; what is too short is seen when it is read."""
        return None

    def read(self, ranges: Sequence[Range]) -> list[Raw]:
        """The bytes of many ranges, fetched together."""
        fs, root = self._fs()
        paths = [_joined(root, file) for file, _, _ in ranges]
        starts, ends = [start for _, start, _ in ranges], [end for _, _, end in ranges]
        found: list[Raw] = []
        # an error is a value here, so that the file that it is about can be told
        for (file, start, end), got in zip(ranges, fs.cat_ranges(paths, starts, ends, on_error="return"), strict=True):
            if isinstance(got, FileNotFoundError):
                raise not_there(self.place(file)) from got
            if isinstance(got, Exception):
                # some places refuse a range that begins behind the end
                size = fs.size(_joined(root, file))
                if size is not None and size < end:
                    raise too_short(self.place(file), f"{size:,} bytes; bytes up to {end:,} were wanted") from got
                raise self._unreadable(file, got) from got
            if len(got) != end - start:
                raise too_short(self.place(file), f"{len(got):,} bytes came from byte {start:,}, not {end - start:,}")
            found.append(got)
        return found

    def _fs(self) -> tuple[Any, str]:
        # a forked process must not use its parent's connections
        if self._opened is None or self._opened[0] != os.getpid():
            protocol = self.url.partition("://")[0]
            try:
                fs, root = fsspec.core.url_to_fs(self.url)
            except ImportError as error:
                raise ConfigError(
                    f"What reads {protocol}:// is not installed.",
                    where=self.url,
                    facts=[str(error)],
                    fix=_EXTRA_OF.get(protocol, "install the package that fsspec names"),
                ) from error
            except ValueError as error:
                raise ConfigError(
                    f'No place of the kind "{protocol}" is known.', where=self.url, facts=[str(error)]
                ) from error
            self._opened = (os.getpid(), fs, root)
        return self._opened[1], self._opened[2]

    def _unreadable(self, file: str, error: Exception) -> CacheError:
        return CacheError(
            "A file of the cache cannot be read from its place.",
            where=self.place(file),
            facts=[f"{type(error).__name__}: {error}"],
            fix="try again; where it stays, look at the place's address and credentials",
        )


def not_there(place: str) -> CacheCorrupt:
    """The error of a file that is missing."""
    return CacheCorrupt(
        "A file of the cache is missing.",
        where=place,
        fix="`distillab cache verify --discard` takes it out; the same build then makes it again",
    )


def too_short(place: str, fact: str) -> CacheCorrupt:
    """The error of a file that was cut off."""
    return CacheCorrupt(
        "A file of the cache is too short.",
        where=place,
        facts=[fact],
        fix="`distillab cache verify --discard` takes it out; the same build then makes it again",
    )


def _joined(root: str, file: str) -> str:
    """`root` and a relative name, with ".." worked out; the "//" of a URL stays."""
    protocol, mark, path = root.rpartition("://")
    return protocol + mark + posixpath.normpath(f"{path}/{file}")

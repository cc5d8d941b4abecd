"""Read a cache's bytes from a local folder, or from a URL that fsspec supports (s3://bucket/cache).

File names are relative to the cache, with "/" between their parts; a merged cache has names that begin with "../".
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import resource
import stat
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import fsspec

from distillab.cache.shards import Raw
from distillab.errors import CacheCorrupt, CacheError, ConfigError
from distillab.paths import local_path, require_no_password
from distillab.redaction import redacted, revealed

Range = tuple[str, int, int]
"""File, first byte, the byte behind the last."""

# Open files of a local cache: at most this, and at most an eighth of the process's limit, which can be 64.
_OPEN_FILES = 128
_SHARE_OF_LIMIT = 8

# Largest list or identity. A list has about 400 bytes a shard, so this is far beyond any build.
_LARGEST_WHOLE_BYTES = 2**29

_HASHED_BYTES = 2**24

# The package that fsspec needs for a protocol, if it has another name.
_EXTRA_OF = {"s3": "pip install 'distillab[s3]'", "s3a": "pip install 'distillab[s3]'"}


class Source(Protocol):
    """Reads byte ranges of a cache's files."""

    @property
    def location(self) -> str:
        """The cache's folder or URL."""
        ...

    def place(self, file: str) -> str:
        """Return a file's whole name, for messages."""
        ...

    def whole(self, file: str) -> bytes | None:
        """Return all bytes of a small file; None if it is not there.

        Raises:
            CacheCorrupt: it is far too large, or no regular file.
        """
        ...

    def files(self, folder: str) -> list[str]:
        """Return names of the files in a folder of the cache, in their order; none where there is no such folder."""
        ...

    def size(self, file: str) -> int | None:
        """Return a file's size in bytes; None if it is not there, or if that would cost a request a file."""
        ...

    def read(self, ranges: Sequence[Range]) -> list[Raw]:
        """Return the bytes of many ranges.

        Raises:
            CacheCorrupt: a file is not there, or ends before a range does.
        """
        ...


def open_source(location: str | Path) -> Source:
    """Open a folder, or a URL that fsspec supports.

    Raises:
        ConfigError: a package that this kind of URL needs is not installed, or the kind is unknown.
    """
    text = str(location)
    return RemoteSource(text) if "://" in text else LocalSource(local_path(text))


def open_store(url: str, *, makes_folders: bool = False) -> tuple[Any, str]:
    """Return the file system of a URL, and the URL's path in it.

    Args:
        makes_folders: files are written, and their folders made where the store has folders.
    Raises:
        ConfigError: a package that this kind of URL needs is not installed, or the kind is unknown.
    """
    protocol = url.partition("://")[0]
    here = makes_folders and protocol in ("file", url)
    try:
        return fsspec.core.url_to_fs(revealed(url), **({"auto_mkdir": True} if here else {}))
    except ImportError as error:
        raise ConfigError(
            f"The package that reads {protocol}:// is not installed.",
            where=url,
            facts=[str(error)],
            fix=_EXTRA_OF.get(protocol, "install the package that fsspec names"),
        ) from error
    except ValueError as error:
        raise ConfigError(f'The protocol "{protocol}" is not supported.', where=url, facts=[str(error)]) from error


class _OpenFile:
    """A regular file, open for reading as long as this object exists."""

    def __init__(self, path: Path, place: str) -> None:
        # opening a pipe would wait for its writer forever
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        facts = os.fstat(self._descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise CacheCorrupt(
                "A cache's file is not a regular file.",
                where=place,
                fix="remove it from the folder; the same build then makes the file again",
            )
        self.size = facts.st_size

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes that are there of this range."""
        # a range of a damaged list must not allocate memory beyond the file's end
        end = min(end, self.size)
        parts = []
        while start < end and (part := os.pread(self._descriptor, end - start, start)):
            parts.append(part)
            start += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


class LocalSource:
    """A local folder. A few of its files are kept open; bytes that are read often stay in the page cache.

    Files are read, not mapped: a mapped file that is truncated while it is read kills the process.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: OrderedDict[str, _OpenFile] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "_open": OrderedDict()}

    @property
    def location(self) -> str:
        """The folder."""
        return redacted(str(self.folder))

    def place(self, file: str) -> str:
        """Return the file's path."""
        return os.path.normpath(self.folder / file)

    def whole(self, file: str) -> bytes | None:
        """Return all bytes of a small file; None if it is not there."""
        try:
            opened = _OpenFile(self.folder / file, self.place(file))
        except (FileNotFoundError, NotADirectoryError):
            return None
        if opened.size > _LARGEST_WHOLE_BYTES:
            raise _too_large(self.place(file), opened.size)
        return opened.read(0, opened.size)

    def files(self, folder: str) -> list[str]:
        """Return names of the files in a folder of the cache, in their order."""
        there = self.folder / folder
        return sorted(f"{folder}/{path.name}" for path in there.iterdir()) if there.is_dir() else []

    def size(self, file: str) -> int | None:
        """Return a file's size in bytes; None if it is not there."""
        try:
            return (self.folder / file).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read(self, ranges: Sequence[Range]) -> list[Raw]:
        """Return the bytes of many ranges."""
        found: list[Raw] = []
        for file, start, end in ranges:
            opened = self._opened(file)
            content = opened.read(start, end)
            if len(content) != end - start:
                raise too_short(self.place(file), f"{opened.size:,} bytes; bytes up to {end:,} were wanted")
            found.append(content)
        return found

    def _opened(self, file: str) -> _OpenFile:
        opened = self._open.get(file)
        if opened is not None:
            self._open.move_to_end(file)
            return opened
        try:
            opened = _OpenFile(self.folder / file, self.place(file))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise not_there(self.place(file)) from error
        self._open[file] = opened
        if len(self._open) > _most_open():
            self._open.popitem(last=False)
        return opened


class RemoteSource:
    """Files behind fsspec; many ranges are fetched at once. Credentials and endpoints: from the environment."""

    def __init__(self, url: str) -> None:
        require_no_password(url, where="the cache's address")
        self.url = redacted(url).rstrip("/")
        self._opened: tuple[int, Any, str] | None = None
        self._fs()

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "_opened": None}

    @property
    def location(self) -> str:
        """The URL."""
        return self.url

    def place(self, file: str) -> str:
        """Return the file's URL."""
        return _joined(self.url, file)

    def whole(self, file: str) -> bytes | None:
        """Return all bytes of a file; None where it is not there."""
        fs, root = self._fs()
        (got,) = fs.cat_ranges([_joined(root, file)], [None], [None], on_error="return")
        if isinstance(got, FileNotFoundError):
            return None
        if isinstance(got, Exception):
            raise self._unreadable(file, got) from got
        content: bytes = got
        if len(content) > _LARGEST_WHOLE_BYTES:
            raise _too_large(self.place(file), len(content))
        return content

    def files(self, folder: str) -> list[str]:
        """Return names of the files in a folder of the cache, in their order."""
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
        """Return None: it would cost a request a file; a file that is too short is found when it is read."""
        return None

    def read(self, ranges: Sequence[Range]) -> list[Raw]:
        """Return the bytes of many ranges, fetched together."""
        fs, root = self._fs()
        paths = [_joined(root, file) for file, _, _ in ranges]
        starts, ends = [start for _, start, _ in ranges], [end for _, _, end in ranges]
        found: list[Raw] = []
        # an error is a value here, so that the message can name its file
        for (file, start, end), got in zip(ranges, fs.cat_ranges(paths, starts, ends, on_error="return"), strict=True):
            if isinstance(got, FileNotFoundError):
                raise not_there(self.place(file)) from got
            if isinstance(got, Exception):
                # some servers refuse a range that begins behind the end
                size = fs.size(_joined(root, file))
                if size is not None and size < end:
                    raise too_short(self.place(file), f"{size:,} bytes; bytes up to {end:,} were wanted") from got
                raise self._unreadable(file, got) from got
            if len(got) > end - start:
                raise self._without_ranges(file, f"wanted: {end - start:,} bytes; sent: {len(got):,}")
            if len(got) != end - start:
                raise too_short(self.place(file), f"{len(got):,} bytes came from byte {start:,}, not {end - start:,}")
            found.append(got)
        return found

    def _fs(self) -> tuple[Any, str]:
        # a forked process must not use its parent's connections
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), *open_store(self.url))
        return self._opened[1], self._opened[2]

    def _without_ranges(self, file: str, fact: str) -> CacheError:
        return CacheError(
            "The server gives only whole files, and a cache is read in parts of files.",
            where=self.place(file),
            facts=[fact],
            fix="serve it by a web server that answers range requests (nginx, Apache, an S3 store; python's "
            "http.server does not), or copy the cache to this machine",
        )

    def _unreadable(self, file: str, error: Exception) -> CacheError:
        return CacheError(
            "A file of the cache cannot be read.",
            where=self.place(file),
            facts=[f"{type(error).__name__}: {error}"],
            fix="try again; if it fails again, check the address and the credentials",
        )


def sha256_of(source: Source, file: str, size: int) -> str:
    """Return the SHA-256 of a file's first `size` bytes, read part by part.

    Raises:
        CacheCorrupt: the file is not there, or has fewer.
    """
    digest = hashlib.sha256()
    for start in range(0, size, _HASHED_BYTES):
        (content,) = source.read([(file, start, min(start + _HASHED_BYTES, size))])
        digest.update(content)
    return digest.hexdigest()


def not_there(place: str) -> CacheCorrupt:
    """Return the error of a file that is missing."""
    return CacheCorrupt(
        "A file of the cache is missing.",
        where=place,
        fix="`distillab cache verify --discard` removes it; the same build then makes it again",
    )


def too_short(place: str, fact: str) -> CacheCorrupt:
    """Return the error of a file that was cut off."""
    return CacheCorrupt(
        "A file of the cache is too short.",
        where=place,
        facts=[fact],
        fix="`distillab cache verify --discard` removes it; the same build then makes it again",
    )


def _most_open() -> int:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _OPEN_FILES if limit == resource.RLIM_INFINITY else min(_OPEN_FILES, limit // _SHARE_OF_LIMIT)


def _too_large(place: str, size: int) -> CacheCorrupt:
    return CacheCorrupt(
        "A list or the identity of the cache is far larger than any build writes.",
        where=place,
        facts=[f"{size:,} bytes; at most {_LARGEST_WHOLE_BYTES:,} are read"],
        fix="restore the file from a copy, or delete the cache and build it again",
    )


def _joined(root: str, file: str) -> str:
    """Join `root` and a relative name, with ".." resolved; the "//" of a URL stays.

    Raises:
        CacheCorrupt: the name leads to another host or bucket: a manifest must not choose a host.
    """
    protocol, mark, path = root.rpartition("://")
    joined = posixpath.normpath(f"{path}/{file}")
    if joined.split("/")[0] != path.split("/")[0]:
        raise CacheCorrupt(
            "A list of the cache names a file of another host or bucket.",
            where=root,
            facts=[f"the file: {file!a}"],
            fix="copy the parts of a merged cache to one place",
        )
    return protocol + mark + joined

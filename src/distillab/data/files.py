"""Files of rows, on the disk or behind a URL that fsspec supports: found with their facts, opened, read by ending."""

from __future__ import annotations

import glob
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import fsspec

from distillab.data.textfiles import Placed, read_csv, read_json, read_json_lines
from distillab.downloads import START_BYTES, not_downloaded
from distillab.errors import DataError
from distillab.library_errors import library_errors
from distillab.paths import require_no_password
from distillab.redaction import redacted, revealed

_BATCH = 4096
_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True)
class RowFile:
    """A file of rows.

    Attributes:
        name: for messages.
        facts: path, size and times (or what the store of a URL knows instead); equal facts mean equal content.
        size_bytes: its size.
        open: opens it for reading.
    """

    name: str
    facts: list[Any]
    size_bytes: int
    open: Callable[[], BinaryIO]


def local_file(path: Path) -> RowFile:
    """Return a file of the disk.

    The time of the last change of its status is among its facts: tools that copy or unpack set the other time back.
    """
    status = path.stat()
    facts = [str(path.absolute()), status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    return RowFile(redacted(str(path)), facts, status.st_size, lambda: path.open("rb"))


def remote_files(url: str) -> list[RowFile]:
    """Return the file at a URL, those that match its pattern, or the Parquet files of its folder.

    Credentials and endpoints are those of the store's client: environment variables and its own files.

    Raises:
        ConfigError: the address holds a password.
        DataError: there is no such file, or the store cannot be read.
    """
    require_no_password(url, where="data")
    shown = redacted(url)
    if url.partition("://")[0].lower() in ("http", "https"):
        raise DataError(
            "Rows are not read from a web page.",
            where=shown,
            fix="download the file and give its path; for the hub give organisation/name, or hf://datasets/…",
        )
    with library_errors(DataError, "The address of the rows cannot be opened.", where=shown):
        fs, root = fsspec.core.url_to_fs(revealed(url))
        fs.invalidate_cache()
        if glob.has_magic(root):
            paths = sorted(fs.glob(root))
        elif fs.isdir(root):
            paths = sorted(fs.glob(f"{root.rstrip('/')}/*.parquet"))
        else:
            paths = [root] if fs.isfile(root) else []
        files = [_remote_file(fs, path) for path in paths]
    if not files:
        raise DataError("There is no such file.", where=shown, fix="check the address; a folder needs *.parquet in it")
    return files


def _remote_file(fs: Any, path: str) -> RowFile:
    name = redacted(fs.unstrip_protocol(path))
    # the file objects of some stores read lines slowly
    return RowFile(
        name, [name, fs.ukey(path)], fs.size(path), lambda: io.BufferedReader(fs.open(path, "rb"), _BUFFER_BYTES)
    )


def read_files(files: Sequence[RowFile], limit: int | None, skipped: list[str] | None) -> Iterator[Placed]:
    """Read the rows of files, one file after the other.

    Args:
        limit: read only this many rows of all.
        skipped: list to which skipped broken lines are added; None: a broken line is an error.
    Raises:
        DataError: an empty, unreadable or broken file; unknown ending.
    """
    count = 0
    for file in files:
        for row in _read_file(file, None if limit is None else limit - count, skipped):
            count += 1
            yield row
        if limit is not None and count >= limit:
            return


def _read_file(file: RowFile, limit: int | None, skipped: list[str] | None) -> Iterator[Placed]:
    ending = Path(file.name).suffix
    reader = ENDINGS.get(ending.lower())
    if reader is None:
        raise DataError(
            f'Files ending in "{ending}" cannot be read.' if ending else "The file's name has no ending.",
            where=file.name,
            fix=f"use one of {', '.join(ENDINGS)}",
        )
    if file.size_bytes == 0:
        raise DataError("The file is empty.", where=file.name, facts=["0 bytes"])
    try:
        with file.open() as stream:
            left = not_downloaded(stream.read(START_BYTES))
            if left is not None:
                raise DataError("The file holds no rows.", where=file.name, facts=[left[0]], fix=left[1])
            stream.seek(0)
            yield from reader(stream, file.name, limit, skipped)
    except OSError as error:
        raise DataError(f"The file cannot be read: {error.strerror or error}.", where=file.name) from error


def _read_parquet(stream: BinaryIO, name: str, limit: int | None, skipped: list[str] | None) -> Iterator[Placed]:
    import pyarrow.parquet

    from distillab.data.arrow_values import label_names, table_rows

    count = 0
    with (
        library_errors(DataError, "The file is not readable Parquet.", where=name),
        pyarrow.parquet.ParquetFile(stream) as file,
    ):
        labels = label_names(file.schema_arrow)
        for batch in file.iter_batches(batch_size=_BATCH):
            for values in table_rows(batch, labels):
                if limit is not None and count >= limit:
                    return
                count += 1
                yield f"{name}, row ", count, values


ENDINGS: dict[str, Callable[[BinaryIO, str, int | None, list[str] | None], Iterator[Placed]]] = {
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".json": read_json,
    ".parquet": _read_parquet,
    ".csv": read_csv,
}
"""The readers of files, by the ending of their names."""

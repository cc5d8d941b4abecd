"""Read the teacher's log-probabilities from Parquet files of DistillKit, axolotl and TRL.

    distillkit  input_ids, token_ids and top_values; or input_ids, bytepacked_indices and compressed_logprobs with
                compression_config.yaml beside the file. Entry j is of the token after token j.
    axolotl     input_ids, target_token_ids and target_logprobs, as `axolotl preprocess` keeps them. Versions differ:
                entry j is of token j, or of the token after it.
    trl         prompt_ids and completion_ids, or input_ids; logprob_token_ids and logprobs, and actual_logprobs where
                they are there, as its server of log-probabilities gives them. Entry j is of the completion's token j.

The files are untrusted: every number is checked. Shape letters: L tokens of a row, T entries, E values of all entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from ruamel.yaml.error import YAMLError

from distillab.config.yaml_text import parse, read_text
from distillab.errors import DataError
from distillab.library_errors import library_errors

Tool = Literal["distillkit", "axolotl", "trl"]
Predicts = Literal["same", "next"]

CONFIG = "compression_config.yaml"
_BATCH = 64
_MOST_VALUES = 2**30  # of a column in a row group: a small file can name any number
_NAMES: Mapping[str, tuple[str, str]] = {
    "distillkit": ("token_ids", "top_values"),
    "axolotl": ("target_token_ids", "target_logprobs"),
    "trl": ("logprob_token_ids", "logprobs"),
}
_PACKED = ("bytepacked_indices", "compressed_logprobs")
_REMAKE = "the file is damaged, or of another format: write it again with the tool"
_FLOATS = {"float16": "<f2", "float32": "<f4", "float64": "<f8", "bfloat16": "<u2"}


@dataclass(frozen=True, eq=False)
class GivenRow:
    """A row of a file.

    Attributes:
        where: the file and its number, for messages.
        input_ids: (L,).
        first: number of the token that the first entry is of; each further entry is of the next token.
        counts: (T,) values of each entry.
        ids, logp: (E,) of all entries, one after another.
        actual: (T,) log-probability of the token itself; None: not given.
    """

    where: str
    input_ids: npt.NDArray[np.int64]
    first: int
    counts: npt.NDArray[np.int64]
    ids: npt.NDArray[np.int64]
    logp: npt.NDArray[np.float64]
    actual: npt.NDArray[np.float64] | None


def read_rows(file: Path, tool: Tool, *, predicts: Predicts) -> Iterator[GivenRow]:
    """Yield the rows of one file.

    Args:
        predicts: which token an entry of axolotl's is of; the other two have one order.
    Raises:
        DataError: it is no Parquet file, lacks a column, or a column is of another type or length.
    """
    with library_errors(DataError, "The file is no Parquet file that can be read.", where=str(file), fix=_REMAKE):
        opened = pq.ParquetFile(file)
        names, metadata = set(opened.schema_arrow.names), opened.metadata
        groups = [metadata.row_group(at) for at in range(metadata.num_row_groups)]
        most = max((one.column(at).num_values for one in groups for at in range(one.num_columns)), default=0)
    if most > _MOST_VALUES:
        raise DataError(
            "A row group of the file is too large to be read.",
            where=str(file),
            facts=[f"{most:,} values of a column", f"limit: {_MOST_VALUES:,}"],
            fix="write the file with smaller row groups",
        )
    packed = tool == "distillkit" and set(_PACKED) <= names
    ids_name, logp_name = _PACKED if packed else _NAMES[tool]
    split = tool == "trl" and "completion_ids" in names
    wanted = [ids_name, logp_name, *(("prompt_ids", "completion_ids") if split else ("input_ids",))]
    if missing := [name for name in wanted if name not in names]:
        raise DataError(
            f"The file has no column of {tool}'s that holds log-probabilities.",
            where=str(file),
            facts=[f"missing: {', '.join(missing)}", f"there: {', '.join(sorted(names))[:200]}"],
            fix="axolotl: run `axolotl preprocess` and export its rows to Parquet"
            if tool == "axolotl"
            else "check --format and the names of the columns",
        )
    actual_name = "actual_logprobs" if tool == "trl" and "actual_logprobs" in names else None
    codec = _packing(file.with_name(CONFIG)) if packed else None
    number = 0
    with library_errors(DataError, "The file cannot be read as such rows.", where=str(file), fix=_REMAKE):
        for batch in opened.iter_batches(_BATCH, columns=[*wanted, *([actual_name] if actual_name else [])]):
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            for place in range(batch.num_rows):
                where = f"{file}, row {number}"
                number += 1
                cells = {name: column[place] for name, column in columns.items()}
                if any(not cell.is_valid for cell in cells.values()):
                    raise DataError("A row lacks a value.", where=where, fix=_REMAKE)
                parts = [_numbers(cells[name].values, np.int64, where) for name in wanted[2:]]
                input_ids = np.concatenate(parts)
                counts, ids = _nested(cells[ids_name].values, np.int64, where)
                lengths, logp = _nested(cells[logp_name].values, np.float64, where)
                if codec is not None:
                    counts, ids, logp = codec.decoded(counts, ids, lengths, logp, where)
                elif not np.array_equal(counts, lengths):
                    raise DataError(
                        "Ids and log-probabilities of a row differ in their numbers.",
                        where=where,
                        facts=[f"{ids_name}: {counts.sum()} in {len(counts)} entries", f"{logp_name}: {lengths.sum()}"],
                        fix=_REMAKE,
                    )
                first = {"distillkit": 1, "axolotl": int(predicts == "next")}.get(tool, len(input_ids) - len(counts))
                actual = None
                if actual_name:
                    each, actual = _nested(cells[actual_name].values, np.float64, where)
                    if not np.array_equal(each, np.ones(len(counts))):
                        raise DataError("A row has not one actual log-probability an entry.", where=where, fix=_REMAKE)
                if first < 0 or not len(input_ids) - 1 <= first + len(counts) <= len(input_ids) + 1:
                    raise DataError(
                        "The entries of a row do not fit to its tokens.",
                        where=where,
                        facts=[f"{len(input_ids)} tokens", f"{len(counts)} entries, the first of token {first}"],
                        fix=_REMAKE,
                    )
                yield GivenRow(where, input_ids, first, counts, ids, logp, actual)


@dataclass(frozen=True)
class _Packing:
    """DistillKit's packing of exact values: id_bits an id, highest bit first; one dtype for the log-probabilities."""

    k: int
    id_bits: int
    dtype: str

    def decoded(
        self, id_bytes: Any, ids: Any, logp_bytes: Any, logp: Any, where: str
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Return counts, ids and log-probabilities of a row."""
        wide, rows = np.dtype(_FLOATS[self.dtype]).itemsize * self.k, len(id_bytes)
        sizes = (-(-self.k * self.id_bits // 8), wide)
        if len(logp_bytes) != rows or (id_bytes != sizes[0]).any() or (logp_bytes != sizes[1]).any():
            facts = [f"bytes an entry by these settings: {sizes[0]} and {sizes[1]}"]
            raise DataError(f"Packed bytes are not those of {CONFIG}.", where=where, facts=facts, fix=_REMAKE)
        bits = np.unpackbits(ids.astype(np.uint8).reshape(rows, -1), axis=1)[:, : self.k * self.id_bits]
        powers = 1 << np.arange(self.id_bits - 1, -1, -1, dtype=np.int64)
        values = np.frombuffer(logp.astype(np.uint8).tobytes(), _FLOATS[self.dtype])
        if self.dtype == "bfloat16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        unpacked = bits.reshape(-1, self.id_bits).astype(np.int64) @ powers
        return np.full(rows, self.k), unpacked, values.astype(np.float64)


def _packing(file: Path) -> _Packing:
    """Read DistillKit's settings of a data set."""
    try:
        values = parse(read_text(file), where=str(file))
    except YAMLError as error:
        raise DataError(
            "DistillKit's settings are not YAML.", where=str(file), facts=[str(error)[:200]], fix=_REMAKE
        ) from error
    values = values if isinstance(values, dict) else {}
    width, k, exact = (values.get(name) for name in ("d", "k", "exact_k"))
    dtype = values.get("exact_dtype", "float32")
    if not all(isinstance(one, int) and 0 < one < 2**24 for one in (width, k)) or dtype not in _FLOATS:
        raise DataError(
            "DistillKit's settings lack d, k or exact_dtype.", where=str(file), facts=[f"{values}"[:200]], fix=_REMAKE
        )
    if exact != k:
        raise DataError(
            "The file has approximations of log-probabilities, by a polynomial or in few bits.",
            where=str(file),
            facts=[f"k: {k}", f"exact_k: {exact}"],
            fix=f"sample the teacher again with exact_k: {k}; such approximations are off by more than a nat",
        )
    assert isinstance(width, int)
    assert isinstance(k, int)
    return _Packing(k, max(1, (width - 1).bit_length()), str(dtype))


def _nested(values: pa.Array, kind: Any, where: str) -> tuple[npt.NDArray[np.int64], Any]:
    """Return the lengths of lists, and their values one after another."""
    if not (pa.types.is_list(values.type) or pa.types.is_large_list(values.type)) or values.null_count:
        raise DataError("A column is not a list of lists.", where=where, facts=[f"type: {values.type}"], fix=_REMAKE)
    return values.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64), _numbers(
        values.flatten(), kind, where
    )


def _numbers(values: pa.Array, kind: Any, where: str) -> Any:
    fits = pa.types.is_integer(values.type) or (kind is np.float64 and pa.types.is_floating(values.type))
    if not fits or values.null_count:
        raise DataError(
            "A list has values that are no numbers.", where=where, facts=[f"type: {values.type}"], fix=_REMAKE
        )
    return values.to_numpy(zero_copy_only=False).astype(kind)


def hits(row: GivenRow, shift: int) -> tuple[int, int]:
    """Return at how many entries the token `shift` places after the entry's own is among the ids, and of how many."""
    tokens = np.arange(len(row.counts)) + row.first + shift
    inside = (tokens >= 0) & (tokens < len(row.input_ids)) & (row.counts > 0)
    wanted = row.input_ids[np.where(inside, tokens, 0)]
    found = (row.ids == np.repeat(wanted, row.counts)) & np.isfinite(row.logp)
    entry = np.repeat(np.arange(len(row.counts)), row.counts)
    return int((np.bincount(entry[found], minlength=len(row.counts)) > 0)[inside].sum()), int(inside.sum())


def files_of(paths: Sequence[Path]) -> list[Path]:
    """Return the Parquet files of folders and files, in the order of their names.

    Raises:
        DataError: there is none.
    """
    found = [file for path in paths for file in (sorted(path.glob("*.parquet")) if path.is_dir() else [path])]
    missing = [str(file) for file in found if not file.is_file()]
    if missing or not found:
        raise DataError(
            "There is no Parquet file.", where=", ".join(missing or map(str, paths)), fix="give files or their folder"
        )
    return found

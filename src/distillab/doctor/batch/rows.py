"""Reads the batches of any trainer into rows: dicts of tensors, arrays or lists, one or several, padded or not.

Shapes: B sequences, L positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from distillab.doctor.batch.masks import GivenMasks, depth_of, of_integers, read_masks
from distillab.doctor.batch.masks import Ints as Ints
from distillab.errors import DataError, ShapeError

Shifts = Literal["model", "batch"]
Learns = Literal["answers", "text", "prompts"]
IGNORED = -100
MAX_BATCHES = 64
MAX_TOKENS = 4_000_000
_INT64 = np.iinfo(np.int64)
# by these a collator marks for an attention kernel where a sample begins
_BOUNDARY_KEYS = ("cu_seq_lens_q", "cu_seqlens", "cu_seq_lens", "seq_idx", "sequence_ids", "segment_ids", "seq_lens")
_OTHER_MODELS = ("decoder_input_ids", "decoder_attention_mask", "pixel_values", "input_features")


@dataclass(frozen=True)
class Told:
    """What the caller says of the batches, see `audit_batch`."""

    shifts: Shifts | None = None
    learns: Learns | None = None
    ignore_index: int = IGNORED
    pad_id: int | None = None
    vocabulary: int | None = None
    absolute_positions: bool | None = None

    @property
    def offset(self) -> int:
        """At which labels belong: 1 where the batch is shifted, 0 where the model or the loss shifts."""
        return 1 if self.shifts == "batch" else 0


@dataclass(frozen=True, eq=False)
class BatchRow:
    """One sequence as it was given.

    Attributes:
        batch, place: which batch, and which row of it; both from 0.
        ids: (L,) input ids.
        labels: (L,) as given, not moved.
        attention: (L,) as given, or None; numbers that are added to scores are 1 where they show, 0 where they hide.
        positions: (L,) as given, or None.
        fills: no row of its batch is longer.
        table: (L, L) True where a query can attend to a key, where the mask has more than two dimensions.
        added, factors: how the mask is meant; see `GivenMasks`.
    """

    batch: int
    place: int
    ids: Ints
    labels: Ints
    attention: Ints | None
    positions: Ints | None
    fills: bool
    table: NDArray[np.bool_] | None = None
    added: bool = False
    factors: bool = False

    @property
    def origin(self) -> str:
        """Which row it is, for a person."""
        return f"batch {self.batch}, row {self.place}"


@dataclass(frozen=True, eq=False)
class GivenBatches:
    """All rows, and the notes beside them.

    Attributes:
        boundaries: the key that marks where samples begin inside of a row; None: there is none.
        notes: what was given and is not judged.
        total: rows, where more were there than were read.
    """

    rows: tuple[BatchRow, ...]
    batches: int
    boundaries: str | None
    notes: tuple[str, ...]
    total: int | None = None


def read_batches(batches: object) -> GivenBatches:
    """Rows of one batch, of a list of batches, or of the first ones of a DataLoader.

    Args:
        batches: a mapping with `input_ids` and `labels`, and `attention_mask` and `position_ids` where there are any:
            (B, L) tensors, arrays or lists, lists also of different lengths, or (L,) for a single row. Or an iterable
            of such mappings, of which the first 64 are read.
    Raises:
        DataError: no batch, a key is missing, ids that are no integers, more than 4,000,000 tokens.
        ShapeError: the labels or masks are shaped otherwise than the ids.
    """
    rows: list[BatchRow] = []
    notes: list[str] = []
    boundaries: str | None = None
    number = -1
    for number, batch in enumerate(_each(batches)):
        made, remarks, boundary = _read(batch, number)
        rows.extend(made)
        notes.extend(note for note in remarks if note not in notes)
        boundaries = boundaries or boundary
        if sum(len(row.ids) for row in rows) > MAX_TOKENS:
            raise DataError(
                "The batches hold more tokens than an examination needs.",
                where=f"batch {number}",
                facts=[f"more than {MAX_TOKENS:,} tokens"],
                fix="give a few batches",
            )
    if not rows:
        raise DataError("There is no row to examine.", facts=[f"{number + 1} batches, no rows"])
    return GivenBatches(tuple(rows), number + 1, boundaries, tuple(notes))


def _each(batches: object) -> Iterator[Mapping[object, object]]:
    if isinstance(batches, Mapping):
        yield batches
        return
    if not isinstance(batches, Iterable) or isinstance(batches, (str, bytes, torch.Tensor, np.ndarray)):
        raise _no_mapping(batches, None)
    for number, batch in enumerate(islice(batches, MAX_BATCHES)):
        if not isinstance(batch, Mapping):
            raise _no_mapping(batch, f"batch {number}")
        yield batch


def _no_mapping(given: object, where: str | None) -> DataError:
    return DataError(
        "A batch is a mapping from names to tensors.",
        where=where,
        facts=[f"got: {type(given).__name__}"],
        fix='give {"input_ids": …, "labels": …}, or a list of such mappings',
    )


def _read(batch: Mapping[object, object], number: int) -> tuple[list[BatchRow], list[str], str | None]:
    other = [key for key in _OTHER_MODELS if key in batch]
    if other:
        raise DataError(
            "Only batches of causal language models on text are judged.",
            where=f"batch {number}",
            facts=[f"it holds {', '.join(other)}"],
            fix="examine the text part alone, where it is one sequence of prompt and answer",
        )
    missing = [key for key in ("input_ids", "labels") if batch.get(key) is None]
    if missing:
        raise DataError(
            f"The batch has no {' and no '.join(missing)}.",
            where=f"batch {number}",
            facts=[f"its keys: {', '.join(sorted(ascii(key)[:40] for key in list(batch)[:20]))}"],
            fix="give what the model is given: what the data collator returns",
        )
    ids = _rows(batch["input_ids"], "input_ids", number)
    labels = _rows(batch["labels"], "labels", number)
    _require_equal(ids, labels, "labels", number)
    notes: list[str] = []
    boundaries = next((key for key in _BOUNDARY_KEYS if batch.get(key) is not None), None)
    positions: list[Ints] | None = None
    if batch.get("position_ids") is not None:
        dimensions = depth_of(batch["position_ids"])
        if dimensions > 2:
            notes.append(f"position_ids has {dimensions} dimensions and is not judged")
        else:
            positions = _rows(batch["position_ids"], "position_ids", number)
            _require_equal(ids, positions, "position_ids", number)
    masks = _masks(batch.get("attention_mask"), ids, number)
    if isinstance(masks, str):
        notes.append(masks)
        # its borders between samples are not known, so that they are not judged
        boundaries = boundaries or "attention_mask"
        masks = GivenMasks(None)
    longest = max((len(row) for row in ids), default=0)
    made = [
        BatchRow(
            batch=number,
            place=place,
            ids=row,
            labels=labels[place],
            attention=None if masks.rows is None else masks.rows[place],
            positions=None if positions is None else positions[place],
            fills=len(row) == longest,
            table=None if masks.tables is None else masks.tables[place],
            added=masks.added,
            factors=masks.factors,
        )
        for place, row in enumerate(ids)
    ]
    return made, notes, boundaries


def _masks(value: object, ids: list[Ints], number: int) -> GivenMasks | str:
    if value is None:
        return GivenMasks(None)
    read = read_masks(value, [len(row) for row in ids])
    if read is None:
        read = of_integers(_rows(value, "attention_mask", number, booleans=True))
    if isinstance(read, GivenMasks) and read.rows is not None:
        _require_equal(ids, read.rows, "attention_mask", number)
    return read


def _rows(value: object, key: str, number: int, *, booleans: bool = False) -> list[Ints]:
    where = f"batch {number}, {key}"
    if isinstance(value, (torch.Tensor, np.ndarray)):
        table = _table(value, where, booleans=booleans)
        return list(table) if table.ndim == 2 else [table]
    if not isinstance(value, (list, tuple)):
        raise DataError(
            "Ids and masks are tensors, arrays or lists.", where=where, facts=[f"got: {type(value).__name__}"]
        )
    if not value or isinstance(value[0], (int, float, bool, str)) or value[0] is None:
        return [_line(value, where, booleans=booleans)] if value else []
    return [
        _table(row, where, booleans=booleans)
        if isinstance(row, (torch.Tensor, np.ndarray))
        else _line(row, where, booleans=booleans)
        for row in value
    ]


def _line(row: object, where: str, *, booleans: bool) -> Ints:
    if not isinstance(row, (list, tuple)):
        raise DataError("A row is a list of integers.", where=where, facts=[f"got: {type(row).__name__}"])
    for item in row:
        if not isinstance(item, int) or (isinstance(item, bool) and not booleans):
            raise DataError("Ids and masks are integers.", where=where, facts=[f"got: {ascii(item)[:60]}"])
        if not _INT64.min <= item <= _INT64.max:
            raise DataError("An id is larger than any integer of 64 bits.", where=where)
    return np.array(row, dtype=np.int64)


def _table(value: torch.Tensor | NDArray[np.generic], where: str, *, booleans: bool) -> Ints:
    if value.ndim not in (1, 2):
        raise ShapeError(
            "Ids and masks are (B, L), or (L,) for a single row.", where=where, facts=[f"shape: {tuple(value.shape)}"]
        )
    # before any copy: a stored tensor may claim any size with strides of zero
    size = int(np.prod([int(side) for side in value.shape], dtype=object))
    if size > MAX_TOKENS:
        raise DataError(
            "A batch holds more tokens than an examination needs.",
            where=where,
            facts=[f"shape {tuple(value.shape)}; at most {MAX_TOKENS:,} tokens are read"],
            fix="give a few batches",
        )
    if isinstance(value, torch.Tensor):
        whole = not (value.is_floating_point() or value.is_complex() or value.is_quantized)
        if value.layout != torch.strided or value.device.type == "meta":
            raise DataError("Only plain tensors are read.", where=where, facts=[f"{value.layout} on {value.device}"])
        whole = whole and (value.dtype != torch.bool or booleans)
        if whole:
            return value.detach().cpu().to(torch.int64).numpy()
    elif value.dtype.kind in ("i", "u") or (booleans and value.dtype.kind == "b"):
        return value.astype(np.int64)
    raise DataError("Ids and masks are integers.", where=where, facts=[f"dtype: {value.dtype}"])


def _require_equal(ids: list[Ints], other: list[Ints], key: str, number: int) -> None:
    if [len(row) for row in ids] == [len(row) for row in other]:
        return
    row = next((n for n, (one, two) in enumerate(zip(ids, other, strict=False)) if len(one) != len(two)), 0)
    facts = [f"input_ids: {len(ids)} rows", f"{key}: {len(other)} rows"]
    if len(ids) == len(other):
        facts = [f"row {row}: {len(ids[row])} input ids, {len(other[row])} in {key}"]
    raise ShapeError(
        f"The {key} of a causal model are shaped as its input ids.",
        where=f"batch {number}",
        facts=facts,
        fix="one sequence [prompt, answer, end] is both the input and the labels, with -100 where nothing is scored; "
        "answers alone cannot be the labels of prompts",
    )

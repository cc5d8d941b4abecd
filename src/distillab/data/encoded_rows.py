"""Encoded rows as flat arrays, in memory or mapped from files, and one of them as an `EncodedRow`.

Columns are files of raw numbers in the order of the rows: for each token its id (int32) and whether it is supervised
(one bit); for each row its number of tokens and what `EncodedRow` holds of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distillab.data.columns import Chosen, Columns, ColumnWriter, MadeWhenRead, mapped_columns
from distillab.data.examples import Example
from distillab.records import EncodingCounts

TOKENS, MASK, KEYS, PLACES = "input_ids", "answer_bits", "keys", "places"
_DTYPES: dict[str, type[np.generic]] = {
    TOKENS: np.int32,
    MASK: np.uint8,
    KEYS: np.uint8,
    "tokens": np.int32,
    "key_bytes": np.int32,
    "prompt_length": np.int32,
    "truncated": np.bool_,
    "special_in_text": np.bool_,
    "removed": np.int32,
    "added": np.int32,
    "lost": np.int32,
    PLACES: np.int64,
}
_AT_ONCE = 1 << 22  # tokens
_ONES = np.unpackbits(np.arange(256, dtype=np.uint8)).reshape(256, 8).sum(axis=1)  # in each byte


@dataclass(frozen=True, eq=False)
class EncodedRow:
    """One sequence.

    Attributes:
        key: `Example.key`.
        input_ids: (L,) int32.
        answer_mask: (L,) bool, True where the token is supervised; never at 0.
        prompt_length: tokens before the last answer that has any token left.
        truncated: the sequence was cut at max_tokens.
        special_in_text: a special token is spelled in the row's text (and encoded as text).
        removed: characters of the data's answers that the template drops.
        added: characters that the template adds to answers, without special tokens.
        lost: characters of the row's text for which the tokenizer has no token.
    """

    key: str
    input_ids: npt.NDArray[np.int32]
    answer_mask: npt.NDArray[np.bool_]
    prompt_length: int
    truncated: bool = False
    special_in_text: bool = False
    removed: int = 0
    added: int = 0
    lost: int = 0

    def __len__(self) -> int:
        return len(self.input_ids)


class EncodedRows(MadeWhenRead[EncodedRow]):
    """Rows over flat arrays; a row is made when it is asked for.

    Attributes:
        columns: the arrays, see `_DTYPES`; `answer_bits` holds eight tokens a byte.
        lengths: (N,) int64, tokens of each row.
        fingerprint: their name in the store; None: they are not stored.
    """

    def __init__(self, columns: Columns, *, fingerprint: str | None = None) -> None:
        self.columns, self.fingerprint = columns, fingerprint
        self.lengths = columns["tokens"].astype(np.int64)
        self._ends, self._key_ends = (np.cumsum(columns[name], dtype=np.int64) for name in ("tokens", "key_bytes"))

    @classmethod
    def opened(cls, folder: Path) -> EncodedRows:
        """Map the files that a `RowWriter` has written."""
        return cls(mapped_columns(folder, _DTYPES), fingerprint=folder.name)

    def __len__(self) -> int:
        return len(self.lengths)

    def _at_place(self, place: int) -> EncodedRow:
        end, key_end = int(self._ends[place]), int(self._key_ends[place])
        start, key_start = end - int(self.lengths[place]), key_end - int(self.columns["key_bytes"][place])
        bits = np.unpackbits(self.columns[MASK][start // 8 : -(-end // 8)])
        found = {name: self.columns[name][place].item() for name in _OF_A_ROW}
        return EncodedRow(
            key=self.columns[KEYS][key_start:key_end].tobytes().decode(),
            input_ids=self.columns[TOKENS][start:end].copy(),  # torch warns of arrays that cannot be written
            answer_mask=bits[start % 8 : start % 8 + end - start].view(np.bool_),
            **found,
        )

    def keys(self) -> list[str]:
        """Return the key of each row."""
        text = self.columns[KEYS].tobytes()
        starts = self._key_ends - self.columns["key_bytes"]
        return [text[start:end].decode() for start, end in zip(starts.tolist(), self._key_ends.tolist(), strict=True)]

    def counts(self, source: str, dropped: Mapping[str, int], *, prompts: int) -> EncodingCounts:
        """Return the counts of these rows and of the dropped ones, by reason.

        Args:
            prompts: different prompts of these rows.
        """
        columns = self.columns
        return EncodingCounts(
            source=source,
            rows=len(self) + sum(dropped.values()),
            kept=len(self),
            dropped_empty_answer=dropped["empty_answer"],
            dropped_no_room=dropped["no_room"],
            truncated=columns["truncated"].sum(),
            special_in_text=columns["special_in_text"].sum(),
            rows_cut_by_template=(columns["removed"] > 0).sum(),
            characters_cut_by_template=columns["removed"].sum(),
            rows_added_to_by_template=(columns["added"] > 0).sum(),
            characters_added_by_template=columns["added"].sum(),
            prompts=prompts,
            rows_with_lost_text=(columns["lost"] > 0).sum(),
            characters_lost=columns["lost"].sum(),
            tokens=self.lengths.sum(),
            supervised_tokens=np.bincount(columns[MASK], minlength=256) @ _ONES,
        )


_OF_A_ROW = ("prompt_length", "truncated", "special_in_text", "removed", "added", "lost")


class RowWriter(ColumnWriter):
    """Append rows, in memory or to the files of a folder.

    Attributes:
        count: rows that were appended.
    """

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(_DTYPES, folder)
        self._bits = np.empty(0, dtype=np.bool_)  # fewer than eight, which fill no byte yet
        self.count = 0

    def append_rows(self, columns: Mapping[str, Any], answer_mask: npt.NDArray[np.bool_]) -> None:
        """Append rows: all columns but `answer_bits`, and the mask of their tokens."""
        bits = np.concatenate([self._bits, answer_mask])
        whole = len(bits) // 8 * 8
        self.append({**columns, MASK: np.packbits(bits[:whole])})
        self._bits = bits[whole:]
        self.count += len(columns["tokens"])

    def append_made(self, rows: Sequence[EncodedRow], *, start: int) -> None:
        """Append rows that were made, whose places follow each other from `start`."""
        keys = [row.key.encode() for row in rows]
        columns: dict[str, Any] = {name: [getattr(row, name) for row in rows] for name in _OF_A_ROW}
        columns |= {
            TOKENS: np.concatenate([row.input_ids for row in rows]),
            KEYS: np.frombuffer(b"".join(keys), dtype=np.uint8),
            PLACES: np.arange(start, start + len(rows)),
            "tokens": [len(row) for row in rows],
            "key_bytes": [len(key) for key in keys],
        }
        self.append_rows(columns, np.concatenate([row.answer_mask for row in rows]))

    def close(self) -> None:
        """Write the last bits, and close the files."""
        self.append({MASK: np.packbits(self._bits)})
        self._bits = self._bits[:0]
        super().close()

    def rows(self) -> EncodedRows:
        """Return the rows that were written in memory; after `close`."""
        return EncodedRows(self.in_memory())


@dataclass(frozen=True, eq=False)
class EncodedSplit:
    """The kept rows, the example of each (same order), and the counts of all rows."""

    rows: Sequence[EncodedRow]
    examples: Sequence[Example]
    counts: EncodingCounts

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, places: Sequence[int]) -> EncodedSplit:
        """Return the rows at some places, with the counts of all."""
        return EncodedSplit(Chosen(self.rows, places), Chosen(self.examples, places), self.counts)


def row_lengths(rows: Sequence[EncodedRow]) -> npt.NDArray[np.int64]:
    """Return (N,) the tokens of each row."""
    return rows.lengths if isinstance(rows, EncodedRows) else np.array([len(row) for row in rows], dtype=np.int64)


def row_keys(rows: Sequence[EncodedRow]) -> list[str]:
    """Return the key of each row."""
    return rows.keys() if isinstance(rows, EncodedRows) else [row.key for row in rows]


def answer_id_counts(rows: Sequence[EncodedRow], *, vocabulary: int) -> npt.NDArray[np.int64]:
    """Return how often each id is supervised, (at least `vocabulary`,)."""
    counts = np.zeros(vocabulary, dtype=np.int64)
    for ids, mask in _token_parts(rows):
        found = np.bincount(ids[mask], minlength=len(counts))
        found[: len(counts)] += counts
        counts = found
    return counts


def _token_parts(
    rows: Sequence[EncodedRow],
) -> Iterator[tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]]:
    """Yield ids and mask of all tokens, in parts."""
    if not isinstance(rows, EncodedRows):
        yield from ((row.input_ids, row.answer_mask) for row in rows)
        return
    ids, bits = rows.columns[TOKENS], rows.columns[MASK]
    for start in range(0, len(ids), _AT_ONCE):
        part = ids[start : start + _AT_ONCE]
        yield part, np.unpackbits(bits[start // 8 : (start + _AT_ONCE) // 8], count=len(part)).view(np.bool_)

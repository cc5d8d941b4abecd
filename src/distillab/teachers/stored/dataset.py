"""Read a cache as a torch data set, for any trainer or plain loop. See docs/cache/offline-loop.md.

Shape letters: B rows of a batch, L tokens of a row (of the longest one in a batch), N scored positions, K kept tokens,
D width, P positions with stored states (N or L).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from distillab.cache.reader import CacheReader
from distillab.cache.rows import CachedRow
from distillab.data.collation import UNSUPERVISED
from distillab.errors import CacheMismatch, DataError, ShapeError, near_names
from distillab.models.heads import OutputHead
from distillab.teachers.stored.activations import read_head
from distillab.teachers.stored.arrays import as_tensor
from distillab.teachers.stored.kinds import STORED

_PADDED = ("input_ids", "labels", "attention_mask", "scored")


class OfflineDistillationDataset(Dataset[dict[str, Tensor]]):
    """The rows of a cache with the teacher's signal.

    Signals always come with `scored` of their row, one for each position that it marks. So they cannot be compared with
    a sequence position by position from its first prompt token on: a mistake that trains without an error, and teaches
    the student the signal of another position.

    An item holds (`scored` is True at t where the logits of t are scored against the token of t+1):

    * `input_ids` (L,) int64, `[prompt, answer]`; `labels` (L,) int64, the same with -100 where unsupervised, not
      shifted; `attention_mask` (L,) int64, all 1; `scored` (L,) bool with N True;
    * top_k: `top_k_ids` (N, K) int64, most likely first, `top_k_logp` (N, K) their true log-probabilities, `top_k_tail`
      (N,) log-probability of all other tokens together, `actual_logp` (N,) of the token that follows;
    * sampled: `sampled_ids` (N, draws) int64, an id as often as it was drawn, `sampled_own_nats` (N,) −mean log p;
    * hidden_states: `hidden.4` (P, D) for each stored layer, P = N if only the answer's positions are stored, else L;
    * full: `head_input` (N, D); attention_inputs: `block.4.query`, `.key`, `.value` (L, D).

    Log-probabilities and nats are float32, natural logs. Activations are in the dtype in which they are
    stored; int8 comes as float32.

    Args:
        location: folder of the cache, or an fsspec URL such as s3://bucket/cache.
        kinds: what is read of each row; other kinds cost nothing. () reads tokens and masks alone.
        keys: the rows to take, in this order; default: all, in the cache's order.
        pad_id: fills `input_ids` after a row that is shorter than its batch; masks follow the length, so any id of the
            student is right.
    Raises:
        CacheMismatch: a kind or a key is not in the cache, or the cache is not complete.
        CacheCorrupt: bytes are damaged or missing (also when an item is read).
    """

    def __init__(
        self,
        location: str | Path,
        *,
        kinds: Sequence[str] = ("top_k",),
        keys: Sequence[str] | None = None,
        pad_id: int = 0,
    ) -> None:
        self._reader = CacheReader(location)
        self.location = str(location)
        self.kinds = tuple(kinds)
        self.pad_id = pad_id
        self._require_kinds(self.kinds)
        self._reader.require_complete()
        self._rows = range(len(self._reader)) if keys is None else self._rows_of(keys)

    @property
    def width(self) -> int:
        """The teacher's distribution is over the ids 0 … width−1; cut the student's logits there before the softmax."""
        return self._reader.identity.width

    def head(self) -> OutputHead:
        """Return the teacher's head (kind full): its `logits` turns rows of `head_input` into the teacher's logits.

        Raises:
            CacheMismatch: the cache does not hold it.
            CacheCorrupt: it is damaged.
        """
        self._require_kinds(["full"])
        return read_head(self._reader, torch.device("cpu"))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        """Return several items at once, as DataLoader requests them: one read for all of their rows."""
        rows = self._reader.read([self._rows[index] for index in indices], self.kinds)
        return [_item(row) for row in rows]

    def collate(self, items: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Collate one batch: tokens padded on the right to (B, L), signals of all items one after another.

        Signals are in the order of `batch["scored"]`: row n of `batch["top_k_ids"]` belongs to row n of
        `logits[batch["scored"]]`, where `logits` (B, L, V) are the student's on the batch. States of all tokens are in
        the order of `batch["attention_mask"].bool()`.

        Raises:
            DataError: no items.
            ShapeError: an item's signals were changed and no longer match its positions.
        """
        if not items:
            raise DataError("A batch needs at least one row.")
        longest = max(len(item["input_ids"]) for item in items)
        filling = {"input_ids": self.pad_id, "labels": UNSUPERVISED, "attention_mask": 0, "scored": 0}
        batch = {name: torch.stack([_padded(item[name], longest, filling[name]) for item in items]) for name in _PADDED}
        for item in items:
            _require_aligned(item)
        for name in items[0]:
            if name not in _PADDED:
                batch[name] = torch.cat([item[name] for item in items])
        return batch

    def _require_kinds(self, kinds: Sequence[str]) -> None:
        stored = {kind for kind in self._reader.kinds if STORED[kind].access != "text"}
        for kind in kinds:
            if kind not in stored:
                holds = ", ".join(sorted(stored)) or "tokens alone"
                raise CacheMismatch(
                    f'The cache holds no signals of the kind "{kind}".',
                    where=self.location,
                    facts=[f"it holds: {holds}"],
                    fix="name one of these, kinds=() for tokens alone, or build a cache with that kind",
                )

    def _rows_of(self, keys: Sequence[str]) -> list[int]:
        wanted = set(keys)
        rows: dict[str, list[int]] = {}
        for row, key in enumerate(self._reader.keys()):
            if key in wanted:
                rows.setdefault(key, []).append(row)
        absent = [key for key in keys if key not in rows]
        if absent:
            raise CacheMismatch(
                f"{len(absent)} of {len(keys)} keys are not in the cache.",
                where=self.location,
                facts=[f'no row has the key "{key}"' for key in absent[:3]],
                fix=near_names(absent[0], [*self._reader.keys()][:10_000]),
            )
        several = [key for key in keys if len(rows[key]) > 1]
        if several:
            raise CacheMismatch(
                "Several rows of the cache have this key.",
                where=self.location,
                facts=[f'"{key}": {len(rows[key])} rows' for key in several[:3]],
                fix="leave keys out and choose among the items by torch.utils.data.Subset",
            )
        return [rows[key][0] for key in keys]


def _item(row: CachedRow) -> dict[str, Tensor]:
    input_ids, answer_mask = as_tensor(row.input_ids).long(), as_tensor(row.answer_mask)
    item = {
        "input_ids": input_ids,
        "labels": input_ids.masked_fill(~answer_mask, UNSUPERVISED),
        "attention_mask": torch.ones_like(input_ids),
        # logits are one position before the token that they predict
        "scored": torch.cat([answer_mask[1:], answer_mask.new_zeros(1)]),
    }
    for kind, section in row.sections.items():
        item |= STORED[kind].tensors(section)
    return item


def _padded(row: Tensor, length: int, filling: int) -> Tensor:
    return torch.cat([row, row.new_full((length - len(row),), filling)])


def _require_aligned(item: dict[str, Tensor]) -> None:
    scored, tokens = int(item["scored"].sum()), len(item["input_ids"])
    for name, tensor in item.items():
        if name not in _PADDED and len(tensor) not in (scored, tokens):
            raise ShapeError(
                f"{name} does not have one entry for each position of its row.",
                facts=[f"{len(tensor)} positions of {name}", f"{scored} scored positions", f"{tokens} tokens"],
                fix="change whole items, not one part of them",
            )

"""Encode the signal of a teacher on a batch as rows of a cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_

import torch

from distillab.cache.identity import CacheIdentity
from distillab.cache.layout import Section
from distillab.cache.rows import CachedRow
from distillab.data.collation import Collator, IndexedRow
from distillab.data.encoding import EncodedRow
from distillab.errors import ConfigError
from distillab.models.activations import ActivationSpec
from distillab.models.batch import TokenBatch
from distillab.models.heads import OutputHead
from distillab.teachers.protocol import SignalSource
from distillab.teachers.signals import HeadInputs, SignalRequest, TeacherSignal
from distillab.teachers.stored.activations import encode_activations
from distillab.teachers.stored.kind import RecordedBatch
from distillab.teachers.stored.kinds import STORED
from distillab.teachers.stored.tokens import encode_next_tokens


class SignalEncoder:
    """Request all kinds of a cache from a source, once a batch, and split the signal into rows.

    Args:
        teacher: any source.
        identity: the kinds, their layouts, and the seed of the draws.
        collator: pads the rows of a batch.
    Raises:
        ConfigError: the identity is of answers (kind text), which are no signal on given rows.
        TeacherError: the source does not give what a kind stores.
    """

    def __init__(self, teacher: SignalSource, identity: CacheIdentity, collator: Collator) -> None:
        self._teacher, self._identity, self._collator = teacher, identity, collator
        if any(STORED[kind].access == "text" for kind in identity.kinds):
            raise ConfigError(
                "Generated answers (kind text) are no signal on given rows.",
                facts=[f"kinds: {', '.join(identity.kinds)}"],
                fix="build kind text by itself",
            )
        requests = [STORED[layout.kind].request(layout, identity.width) for layout in identity.layouts]
        self._request = SignalRequest(
            scores=frozenset(need for request in requests for need in request.scores),
            activations=reduce(or_, (request.activations for request in requests), ActivationSpec()),
        )
        teacher.require(self._request, packing=False)
        head = teacher.identity.head
        self._vocabulary = identity.width if head is None else head.rows
        self.head: OutputHead | None = None

    def rows(self, rows: Sequence[EncodedRow]) -> list[CachedRow]:
        """Return the rows of one batch with every kind of the identity.

        From here on `head` is the teacher's, if the source gives one.

        Raises:
            NumericsError: the teacher's numbers are not finite; the message names the row.
            TeacherError: the teacher's tensors have another dtype than the identity states.
        """
        batch = self._collator([IndexedRow(index, row) for index, row in enumerate(rows)])
        return self.split(batch, self._teacher.signal(batch, self._request), rows)

    @torch.no_grad()
    def split(self, batch: TokenBatch, signal: TeacherSignal, rows: Sequence[EncodedRow]) -> list[CachedRow]:
        """Return the rows of a batch with its signal; `batch["rows"]` counts through `rows`."""
        identity = self._identity
        if isinstance(signal.scores, HeadInputs):
            self.head = signal.scores.head
        recorded = RecordedBatch(batch, signal, [row.key for row in rows], width=identity.width, seed=identity.seed)
        joined: Mapping[str, Section] = {
            **encode_next_tokens(identity.layouts, recorded, vocabulary=self._vocabulary),
            **encode_activations(identity.layouts, recorded),
        }
        sections: dict[str, Sequence[Section]] = {
            layout.kind: joined[layout.kind].split(recorded.lengths(layout)) for layout in identity.layouts
        }
        made: dict[int, CachedRow] = {}
        for place, sample in enumerate(recorded.samples):
            row = rows[sample.row]
            of_row = {kind: each[place] for kind, each in sections.items()}
            made[sample.row] = CachedRow(row.key, row.input_ids, row.answer_mask, of_row)
        return [made[index] for index in range(len(rows))]

"""Use a cache as a teacher: its signal was recorded before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from distillab.cache.reader import CacheReader
from distillab.cache.rows import row_digest
from distillab.data.encoding import EncodedRow
from distillab.errors import CacheMismatch, TeacherError
from distillab.models.batch import TokenBatch
from distillab.models.heads import OutputHead
from distillab.records import ACCESS_ORDER
from distillab.teachers.protocol import TeacherIdentity
from distillab.teachers.signals import ChunkedScores, Distribution, SignalRequest, TeacherSignal
from distillab.teachers.stored.activations import CachedActivations, read_head, read_head_inputs
from distillab.teachers.stored.kept_tokens import ACTUAL_LOGP, CachedCapabilities
from distillab.teachers.stored.kinds import STORED, teacher_shape
from distillab.teachers.stored.rows import require_stored, samples


class CachedTeacher:
    """A signal source that reads the recorded signal of a model on the same rows.

    A row is found by its tokens and its answer mask, so batches can come in any order, padded or packed, from any
    process. If the whole distribution is stored (kind full), it supports every term that reads distributions; a stored
    form that is exactly what a term reads is preferred, because it is smaller. It can be pickled; the files are opened
    again where it is used.

    Args:
        reader: of a complete cache (see `load_cached`).
        device: where the signal goes.
    """

    def __init__(self, reader: CacheReader, *, device: torch.device) -> None:
        self._reader, self._device = reader, device
        identity = reader.identity
        self._scores = CachedCapabilities.of(
            identity.layouts,
            width=identity.width,
            where=reader.location,
            has_actual=ACTUAL_LOGP not in identity.engine,
        )
        self._activations = CachedActivations(reader, device)
        self._head: OutputHead | None = None
        self._checked: set[SignalRequest] = set()

    def __getstate__(self) -> dict[str, Any]:
        # the head is read again if needed: it can be large, and on a device
        return {**self.__dict__, "_head": None}

    @property
    def reader(self) -> CacheReader:
        """Of the cache behind it."""
        return self._reader

    @property
    def identity(self) -> TeacherIdentity:
        """The recorded teacher; `access` is the highest level of any stored kind, `require` checks what a run reads."""
        stored = self._reader.identity
        levels = [STORED[kind].access for kind in stored.kinds]
        if self._scores.supports(Distribution(stored.width)):
            levels.append("logits")
        return TeacherIdentity(
            provenance=stored.teacher,
            access=max(levels, key=ACCESS_ORDER.index),
            revision=stored.revision,
            shape=teacher_shape(stored.sizes),
            dtype=stored.teacher.dtype,
            input_ids=1 << stored.tokens.id_bits,
            vocab_size=stored.width,
            engine=stored.engine,
        )

    def require(self, request: SignalRequest, *, packing: bool) -> None:
        """Check that everything that `request` names is stored.

        Args:
            packing: has no effect: every row was recorded alone.
        Raises:
            TeacherError: it is not; the message names the cache to build.
        """
        if request.scores and not self._as_stored(request):
            for need in sorted(request.scores, key=str):
                if not self._reader.identity.stores_head and not self._scores.supports(need):
                    self._scores.refuse(need)
                if need.width > self.head.weight_VD.shape[0]:
                    raise TeacherError(
                        "The stored head has fewer ids than a term reads.",
                        where=self._reader.location,
                        facts=[f"needed: {need.width}", f"stored: {self.head.weight_VD.shape[0]}"],
                        fix="read the teacher whose tokenizer the run's contract was made for",
                    )
        self._activations.require(request)
        self._checked.add(request)

    def signal(self, batch: TokenBatch, request: SignalRequest) -> TeacherSignal:
        """Return the stored signal of the batch's rows, at their positions.

        Activations are (B, L, D) as from a model; where nothing is stored (padding; with `positions: answer` all but
        the scored positions) they are zero.

        Raises:
            CacheMismatch: a row of the batch is not in the cache.
            CacheCorrupt: stored bytes are damaged.
            TeacherError: a requested signal is not stored.
        """
        if request not in self._checked:
            self.require(request, packing=False)
        rows = self._rows(batch)
        scores: ChunkedScores | None = None
        if request.scores and self._as_stored(request):
            scores = self._scores.read(self._reader, rows, request, self._device)
        elif request.scores:
            scores = read_head_inputs(self._reader, rows, self.head)
        activations = self._activations.read(rows, batch, request) if request.activations else None
        return TeacherSignal(scores=scores, activations=activations)

    def require_rows(self, rows: Sequence[EncodedRow], *, what: str) -> None:
        """Check, before a run, that every row is in the cache with the same tokens.

        Args:
            what: whose rows they are, for the message.
        Raises:
            CacheMismatch: rows are missing, or have other tokens there; both are shown.
        """
        require_stored(self._reader, rows, what=what)

    @property
    def head(self) -> OutputHead:
        """The recorded teacher's head (kind full), on the device."""
        if self._head is None:
            self._head = read_head(self._reader, self._device)
        return self._head

    def _as_stored(self, request: SignalRequest) -> bool:
        return all(self._scores.supports(need) for need in request.scores)

    def _rows(self, batch: TokenBatch) -> list[int]:
        """Return the stored row of every sample, in the order in which the scored positions are flattened."""
        found = samples(batch)
        numbers = self._reader.find_many([row_digest(sample.input_ids, sample.answer_mask) for sample in found])
        rows: list[int] = []
        for sample, number in zip(found, numbers, strict=True):
            if number is None:
                raise CacheMismatch(
                    "A row of the batch is not in the cache.",
                    where=self._reader.location,
                    facts=[
                        f"row {sample.row} of its split, {len(sample.input_ids)} tokens, "
                        f"{int(sample.answer_mask.sum())} of them scored",
                        f"it begins with the ids {sample.input_ids[:8].tolist()}",
                        f"the cache: {len(self._reader)} rows of {self._reader.identity.source}",
                    ],
                    fix="build a cache of these rows; a row of other tokens is another row",
                )
            rows.append(number)
        return rows


def load_cached(
    location: str | Path,
    *,
    device: torch.device,
    tokenizer_fingerprint: str,
    template_sha256: str,
    width: int,
) -> CachedTeacher:
    """Return the teacher of a cache's folder or URL.

    Args:
        device: where its signal goes.
        tokenizer_fingerprint: of the tokenizer that makes the run's rows.
        template_sha256: of the template that makes their text.
        width: ids 0 … width-1 are compared.
    Raises:
        CacheMismatch: the cache is not complete, or was made for another tokenizer, template or width.
        CacheCorrupt: its bytes are damaged.
    """
    reader = CacheReader(location)
    reader.require_complete()
    identity = reader.identity
    pairs = [
        ("tokenizer", identity.tokenizer, tokenizer_fingerprint),
        ("template", identity.template_sha256, template_sha256),
    ]
    if any(STORED[kind].fixes_width for kind in identity.kinds) and not identity.stores_head:
        # the whole distribution serves any width, and activations have none
        pairs.append(("width", str(identity.width), str(width)))
    facts = [f"{name}: the cache {there}; this run {here}" for name, there, here in pairs if there != here]
    if facts:
        raise CacheMismatch(
            "The cache was made for another tokenizer, template or vocabulary than this run's.",
            where=str(location),
            facts=facts,
            fix="build a cache with this run's recipe, or use the recipe that the cache was built with",
        )
    return CachedTeacher(reader, device=device)

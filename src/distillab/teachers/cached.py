"""A teacher that is not there: what it said was recorded before, and is read from a cache.

Shape letters: B sequences, L positions, N scored positions of the batch, K kept tokens or draws, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from distillab.cache.reader import CacheReader
from distillab.cache.rows import Sampled, States, TopK, row_digest
from distillab.data.encoding import EncodedRow
from distillab.errors import CacheMismatch, TeacherError
from distillab.models.batch import TokenBatch
from distillab.models.heads import OutputHead
from distillab.records import ACCESS_ORDER, AccessLevel
from distillab.teachers.arrays import as_tensor
from distillab.teachers.layouts import teacher_shape
from distillab.teachers.protocol import TeacherIdentity
from distillab.teachers.samples import samples
from distillab.teachers.signals import (
    ChunkedScores,
    DrawnTokens,
    HeadInputs,
    ScoreRequest,
    SignalRequest,
    TeacherSignal,
    Top,
    TopTokens,
)
from distillab.teachers.stored_inner import CachedActivations
from distillab.teachers.stored_rows import require_stored
from distillab.teachers.stored_tokens import CachedDistribution, stored_forms

_ACCESS: dict[str, AccessLevel] = {
    "text": "text",
    "top_k": "top_k",
    "sampled": "logits",
    "full": "logits",
    "hidden_states": "internals",
    "attention_inputs": "internals",
}


class CachedTeacher:
    """Says again what a model said of the same rows.

    A row is found by its tokens and its answer mask, so batches may come in any order, padded or packed, from any
    process. Where the whole distribution is stored (kind full) it serves every term that reads distributions; what is
    stored in the very form that a term reads is preferred, because it is smaller. It can be pickled; the files are
    opened again where it is used.

    Args:
        reader: of a complete cache (see `load_cached`).
        device: where the signal goes.
    """

    def __init__(self, reader: CacheReader, *, device: torch.device) -> None:
        self._reader, self._device = reader, device
        identity = reader.identity
        self._kinds = {layout.kind: layout for layout in identity.layouts}
        self._forms = stored_forms(identity.layouts, width=identity.width, where=reader.location)
        self._inner = CachedActivations(reader, device)
        self._head: OutputHead | None = None
        self._checked: set[SignalRequest] = set()

    def __getstate__(self) -> dict[str, Any]:
        # the head is read again by whoever needs it: it may be large, and on a device
        return {**self.__dict__, "_head": None}

    @property
    def reader(self) -> CacheReader:
        """Of the cache behind it."""
        return self._reader

    @property
    def identity(self) -> TeacherIdentity:
        """The recorded teacher; `access` is the most that any stored kind gives, `require` checks what a run reads."""
        stored = self._reader.identity
        return TeacherIdentity(
            provenance=stored.teacher,
            access=max((_ACCESS[kind] for kind in self._kinds), key=ACCESS_ORDER.index),
            revision=stored.revision,
            shape=teacher_shape(stored.sizes),
            dtype=stored.teacher.dtype,
            input_ids=1 << stored.tokens.id_bits,
            vocab_size=stored.width,
            engine=stored.engine,
        )

    def require(self, request: SignalRequest, *, packing: bool) -> None:
        """Check that all that is asked for is stored.

        Args:
            packing: makes no difference: every row was recorded by itself.
        Raises:
            TeacherError: it is not; the message says what to build.
        """
        if request.scores and not self._as_stored(request):
            for need in sorted(request.scores, key=str):
                if "full" not in self._kinds and not self._forms.supports(need):
                    self._forms.refuse(need)
                if need.width > self.head.weight_VD.shape[0]:
                    raise TeacherError(
                        "The stored head tells fewer ids than a term reads.",
                        where=self._reader.location,
                        facts=[f"needed: {need.width}", f"stored: {self.head.weight_VD.shape[0]}"],
                        fix="read the teacher whose tokenizer the run's contract was made for",
                    )
        self._inner.require(request)
        self._checked.add(request)

    def signal(self, batch: TokenBatch, request: SignalRequest) -> TeacherSignal:
        """What is stored of the batch's rows, at their positions.

        Inner states are (B, L, D) as from a model; where nothing is stored (padding; with positions: answer all but
        the scored positions) they are zero.

        Raises:
            CacheMismatch: a row of the batch is not in the cache.
            CacheCorrupt: stored bytes are damaged.
            TeacherError: what is asked for is not stored.
        """
        if request not in self._checked:
            self.require(request, packing=False)
        rows = self._rows(batch)
        scores: ChunkedScores | None = None
        if request.scores:
            scores = self._stored_tokens(rows, request) if self._as_stored(request) else self._head_inputs(rows)
        return TeacherSignal(
            scores=scores, activations=self._inner.captured(rows, batch, request) if request.activations else None
        )

    def require_rows(self, rows: Sequence[EncodedRow], *, what: str) -> None:
        """Check, before a run, that every row is in the cache with the same tokens.

        Args:
            what: whose rows they are, for the message.
        Raises:
            CacheMismatch: rows are missing, or have other tokens there; both sides are shown.
        """
        require_stored(self._reader, rows, what=what)

    @property
    def head(self) -> OutputHead:
        """The recorded teacher's head (kind full), on the device."""
        if self._head is None:
            stored = self._reader.head()
            bias_V = None if stored.bias is None else as_tensor(stored.bias, self._device)
            self._head = OutputHead(as_tensor(stored.weight, self._device), bias_V, stored.multiplier, stored.cap)
        return self._head

    def _as_stored(self, request: SignalRequest) -> bool:
        return all(self._forms.supports(need) for need in request.scores)

    def _rows(self, batch: TokenBatch) -> list[int]:
        """The stored row of every sample, in the order in which the batch's scored positions are flattened."""
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

    def _head_inputs(self, rows: Sequence[int]) -> HeadInputs:
        section = self._reader.read_flat(rows, "full")
        assert isinstance(section, States)
        head = self.head
        hidden_ND = as_tensor(section.arrays["head_input"], self._device).to(head.weight_VD.dtype)
        return HeadInputs(hidden_ND, head)

    def _stored_tokens(self, rows: Sequence[int], request: SignalRequest) -> CachedDistribution:
        asked: frozenset[ScoreRequest] = request.scores
        kept, draws, positions = None, None, 0
        if any(isinstance(need, Top) for need in asked):
            top = self._reader.read_flat(rows, "top_k")
            assert isinstance(top, TopK)
            kept = TopTokens(
                as_tensor(top.ids, self._device).long(),
                as_tensor(top.logp, self._device),
                as_tensor(top.tail_logmass, self._device),
            )
            positions = len(top.ids)
        if any(not isinstance(need, Top) for need in asked):
            drawn = self._reader.read_flat(rows, "sampled")
            assert isinstance(drawn, Sampled)
            positions = len(drawn.distinct)
            draws = DrawnTokens(
                as_tensor(drawn.drawn(), self._device).long(), as_tensor(drawn.entropy_estimate, self._device)
            )
        return CachedDistribution(self._forms, positions, kept, draws)


def load_cached(
    location: str | Path,
    *,
    device: torch.device,
    tokenizer_fingerprint: str,
    template_sha256: str,
    width: int,
) -> CachedTeacher:
    """A teacher from the folder or URL of a cache.

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
    sides = [
        ("tokenizer", identity.tokenizer, tokenizer_fingerprint),
        ("template", identity.template_sha256, template_sha256),
    ]
    kinds = {layout.kind for layout in identity.layouts}
    if kinds & {"top_k", "sampled"} and "full" not in kinds:
        # the whole distribution serves any width, and inner states have none
        sides.append(("width", str(identity.width), str(width)))
    facts = [f"{name}: the cache {there}; this run {here}" for name, there, here in sides if there != here]
    if facts:
        raise CacheMismatch(
            "The cache was made for another tokenizer, template or vocabulary than this run has.",
            where=str(location),
            facts=facts,
            fix="build a cache with this run's recipe, or use the recipe that the cache was built with",
        )
    return CachedTeacher(reader, device=device)

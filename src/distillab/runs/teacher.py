"""A run's teacher: what it said once, where that is stored, and else itself, loaded when first asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from distillab.cache.reader import CacheReader
from distillab.cache.rows import row_digest
from distillab.config.models import RunRecipe
from distillab.data.encoding import EncodedRow, EncodedSplit
from distillab.errors import CacheMismatch, TeacherError
from distillab.evaluation.likelihood import SharedTeacher
from distillab.records import CacheUse, TeacherProvenance
from distillab.runs.inputs import RunInputs
from distillab.runs.sides import Side, asked_rows, asked_side, judging_side
from distillab.runs.signals import reads_signals
from distillab.teachers.cache_parts import Part, part_of
from distillab.teachers.cached import CachedTeacher, load_cached
from distillab.teachers.local import LocalTeacher, load_local
from distillab.teachers.protocol import Generates, SignalSource


@dataclass(frozen=True)
class StoredSignals:
    """Where a run finds what its teacher said.

    Attributes:
        train: of the training rows; None: the terms ask the teacher itself.
        held_out: of the held-out rows; None: the evaluation asks the teacher itself, where it has its weights.
        text: the teacher's answers; None: in the folder of the run or of its study.
    """

    train: str | None = None
    held_out: str | None = None
    text: str | None = None


def stored_signals(recipe: RunRecipe, inputs: RunInputs) -> StoredSignals:
    """What the recipe's own cache holds of what the run reads; nothing where it names none.

    Raises:
        CacheMismatch: the terms read signals, and the cache holds none of the training rows.
    """
    if recipe.teacher is None or recipe.teacher.cache is None or inputs.place is None:
        return StoredSignals()
    location, parts = recipe.teacher.cache, inputs.place.parts
    part: Part = "answers" if recipe.resolved().answers == "teacher" else "train"
    if reads_signals(recipe) and part not in parts:
        raise CacheMismatch(
            "The method reads the teacher's signals on its training rows, and the cache holds none of them.",
            where=part_of(location, part),
            facts=[
                f"method {recipe.method}, whose rows have the answers of the {recipe.resolved().answers}",
                f"the cache holds: {', '.join(sorted(parts))}",
            ],
            fix="run `distillab cache build` with this recipe, or leave teacher.cache out",
        )
    return StoredSignals(
        train=part_of(location, part) if reads_signals(recipe) else None,
        held_out=_held_out_part(location, recipe, inputs),
        text=part_of(location, "text") if "text" in parts else None,
    )


def _held_out_part(location: str, recipe: RunRecipe, inputs: RunInputs) -> str | None:
    """The part that holds whole distributions at all held-out rows that are judged."""
    assert inputs.place is not None
    rows = inputs.held_out.first(recipe.evaluation.rows).rows
    candidates: tuple[Part, ...] = ("held_out", "train")
    for part in candidates:
        identity = inputs.place.parts.get(part)
        if identity is None or not any(layout.kind == "full" for layout in identity.layouts):
            continue
        reader = CacheReader(part_of(location, part))
        if None not in reader.find_many([row_digest(row.input_ids, row.answer_mask) for row in rows]):
            return part_of(location, part)
    return None


TRAINING = "the training rows"  # what a run's record calls them


class RunTeacher:
    """The teacher of one run. Its weights are loaded at most once, and only when something asks for them.

    Args:
        recipe: of the run.
        inputs: its tokenizers and rows.
        device: the student's.
        stored: where the run finds what the teacher said.
    """

    def __init__(self, recipe: RunRecipe, inputs: RunInputs, *, device: torch.device, stored: StoredSignals) -> None:
        self._recipe, self._prepared, self._device, self._stored = recipe, inputs, device, stored
        self._local: LocalTeacher | None = None
        self._opened: dict[str, CachedTeacher] = {}
        self.provenance: TeacherProvenance | None = None
        self.uses: list[CacheUse] = []
        self.notes: list[str] = []

    def source(self) -> SignalSource:
        """The teacher itself, opened once.

        Raises:
            TeacherError: the recipe names no weights, or they cannot be loaded.
        """
        return self._loaded()

    def generator(self) -> Generates:
        """The teacher as what writes answers. Raises as `source`."""
        return self._loaded()

    def model(self) -> PreTrainedModel:
        """The teacher's weights. Raises as `source`."""
        return self._loaded().model

    def _loaded(self) -> LocalTeacher:
        """The teacher in this process.

        Raises:
            TeacherError: the recipe names no weights, or they cannot be loaded.
        """
        settings = self._recipe.teacher
        if self._local is None:
            if settings is None or self._prepared.teacher is None:
                raise TeacherError("This needs a teacher, and the recipe names none.", fix="add teacher: {path: …}")
            self._local = load_local(
                settings,
                student_device=self._device,
                template_sha256=self._prepared.teacher.encoder.template.sha256,
            )
            self.provenance = self._local.identity.provenance
        return self._local

    @property
    def text(self) -> str | None:
        """Where the answers of the recipe's own cache are; None: they are made, or found, beside the run."""
        return self._stored.text

    def for_terms(self, split: EncodedSplit) -> SignalSource | None:
        """Who gives the terms their signals at the training rows; None where they read none.

        Raises:
            CacheMismatch, CacheCorrupt: the cache does not hold these rows, or is another's or damaged.
        """
        if not reads_signals(self._recipe):
            return None
        if self._stored.train is None:
            return self.source()
        rows = asked_rows(self._recipe, self._prepared, split)
        side = asked_side(self._recipe, self._prepared)
        return self._cached(self._stored.train, rows, side=side, what=TRAINING)

    def for_evaluation(self) -> SharedTeacher | None:
        """The teacher as a yardstick of distributions; None where ids do not mean the same, or it cannot be asked."""
        recipe, width = self._recipe, self._prepared.shared_width
        if recipe.teacher is None or width == 0:
            return None
        if self._stored.held_out is not None:
            rows = self._prepared.held_out.first(recipe.evaluation.rows).rows
            side = judging_side(self._prepared)
            return SharedTeacher(self._cached(self._stored.held_out, rows, side=side, what="the held-out rows"), width)
        if recipe.teacher.path is None:
            self.notes.append(
                "KL from the teacher and agreement with it were not measured: the cache does not hold the held-out "
                "rows as kind full, and the recipe names no weights of the teacher"
            )
            return None
        return SharedTeacher(self.source(), width)

    def _cached(self, location: str, rows: Sequence[EncodedRow], *, side: Side, what: str) -> CachedTeacher:
        if location not in self._opened:
            self._opened[location] = load_cached(
                location,
                device=self._device,
                tokenizer_fingerprint=side.fingerprint,
                template_sha256=side.reader.encoder.template.sha256,
                width=side.width,
            )
        teacher = self._opened[location]
        teacher.require_rows(rows, what=what)
        self.provenance = teacher.identity.provenance
        self.uses.append(_use(location, teacher, rows, what))
        return teacher


def _use(location: str, teacher: CachedTeacher, rows: Sequence[EncodedRow], what: str) -> CacheUse:
    identity = teacher.reader.identity
    return CacheUse(
        path=location,
        fingerprint=identity.fingerprint,
        teacher=identity.teacher.name,
        source=what,
        kinds=tuple(layout.kind for layout in identity.layouts),
        rows=len(rows),
        tokens=sum(len(row) for row in rows),
        scored_tokens=sum(int(row.answer_mask.sum()) for row in rows),
    )

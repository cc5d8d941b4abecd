"""Find what a run can read of its teacher in a cache, before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distillab.cache.identity import CacheIdentity
from distillab.cache.reader import CacheReader
from distillab.cache.rows import row_digest
from distillab.config.methods import described
from distillab.data.encoding import EncodedRow
from distillab.errors import CacheMismatch
from distillab.runs.inputs import RunInputs
from distillab.teachers.stored.location import Part, part_of


@dataclass(frozen=True)
class StoredSignals:
    """Where a run finds cached signals of its teacher.

    Attributes:
        train: of the training rows; None: the terms read the teacher itself.
        held_out: of the held-out rows; None: the evaluation reads the teacher itself, if it has its weights.
        text: the teacher's answers; None: in the folder of the run or of its study.
        parts: the same for each of several teachers, by name.
        answers: where the answers of each of several teachers are; default: a folder of its name in that of the run.
    """

    train: str | None = None
    held_out: str | None = None
    text: str | None = None
    parts: Mapping[str, StoredSignals] = field(default_factory=dict)
    answers: Mapping[str, Path] = field(default_factory=dict)


NOTHING_STORED = StoredSignals()


def stored_signals(inputs: RunInputs) -> StoredSignals:
    """Return what the run can read from the recipe's cache; nothing if the recipe names none.

    Raises:
        CacheMismatch: the terms read signals, and the cache holds none of the training rows.
    """
    if inputs.parts:
        return StoredSignals(parts={name: stored_signals(part) for name, part in inputs.parts.items()})
    if inputs.teacher is None or inputs.teacher.spec.settings.cache is None:
        return NOTHING_STORED
    location, parts, method = inputs.teacher.spec.settings.cache, inputs.teacher.spec.parts, inputs.method
    part: Part = "answers" if method.answers == "teacher" else "train"
    reads = method.reads_signals and method.own is None  # no cache holds what the student is yet to write
    if reads and part not in parts:
        raise CacheMismatch(
            "The method needs the teacher's signals on its training rows, and the cache holds none.",
            where=part_of(location, part),
            facts=[
                f"method {described(inputs.recipe.method, method)}, on the answers of the {method.answers}",
                f"the cache holds: {', '.join(sorted(parts))}",
            ],
            fix="run `distillab cache build` with this recipe, or leave teacher.cache out",
        )
    return StoredSignals(
        train=part_of(location, part) if reads else None,
        held_out=_held_out_part(location, parts, inputs.teacher_eval_rows),
        text=part_of(location, "text") if "text" in parts else None,
    )


def _held_out_part(location: str, parts: Mapping[Part, CacheIdentity], rows: Sequence[EncodedRow]) -> str | None:
    """Return the part that holds whole distributions at all held-out rows of the evaluation."""
    candidates: tuple[Part, ...] = ("held_out", "train")
    for part in candidates:
        identity = parts.get(part)
        if identity is None or not identity.stores_head:
            continue
        reader = CacheReader(part_of(location, part))
        if None not in reader.find_many([row_digest(row.input_ids, row.answer_mask) for row in rows]):
            return part_of(location, part)
    return None

"""Plan the caches that the runs of a study share: one location a teacher, each part made once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from distillab.cache.rows import row_digest
from distillab.config.cache import KindConfig
from distillab.config.study import ArmConfig, StudyRecipe
from distillab.config.teacher import TeacherConfig
from distillab.data.encoding import EncodedRow
from distillab.files import require_space
from distillab.records import CacheUse, RunRecord, read_record
from distillab.runs.inputs import RunInputs
from distillab.runs.signals import CacheJob, arms_kinds, bytes_before_loading, held_out_kinds
from distillab.runs.stored_signals import NOTHING_STORED, StoredSignals, stored_signals
from distillab.study.teachers import PartArm, one_teacher_each, only_teacher
from distillab.teachers.spec import teacher_name
from distillab.teachers.stored.location import Part, part_of

OTHERWISE = "set teacher_signals: online, which runs the teachers again in every run"
_Shared = Literal["train", "answers"]


@dataclass
class StudyCaches:
    """The caches that the runs of a study read.

    Args:
        recipe: the study.
        inputs: of a run of an arm, with any seed.
        uncached: names of the arms with another collator, whose rows are in no cache.
    """

    recipe: StudyRecipe
    inputs: Callable[[ArmConfig], RunInputs]
    uncached: frozenset[str]
    _locations: dict[str, Path] = field(default_factory=dict)

    def stored(self, arm: ArmConfig) -> StoredSignals:
        """Return where the runs of an arm find cached signals of their teacher."""
        if self.recipe.teacher_signals == "online":
            return NOTHING_STORED
        if self._teacher(arm).cache is not None:
            given = stored_signals(self.inputs(arm))
            return given if self._reads(arm) else replace(given, train=None)
        train = part_of(str(self._location(arm, self._part(arm))), self._part(arm))
        held_out = part_of(str(self._location(arm, "held_out")), "held_out")
        return StoredSignals(
            train=train if self._reads(arm) else None,
            held_out=held_out if self._wants(arm, "held_out") else None,
        )

    def missing(self, part: Part, arms: Sequence[ArmConfig]) -> list[ArmConfig]:
        """Return one arm for each cache that these arms will read and that is not made yet.

        Args:
            part: train, held_out or answers.
        """
        first: dict[Path, ArmConfig] = {}
        for arm in one_teacher_each(self.recipe, arms):
            if self.recipe.teacher_signals == "cached" and self._teacher(arm).cache is None and self._wants(arm, part):
                first.setdefault(self._location(arm, part), arm)
        return [arm for arm in first.values() if not self.job(arm, part).built.is_file()]

    def job(self, arm: ArmConfig, part: Part, rows: Sequence[EncodedRow] = ()) -> CacheJob:
        """Return the job that records the cache of an arm and of all arms that share it.

        Args:
            rows: for the part answers: the teacher's inputs with its answers.
        """
        inputs = self.inputs(arm)
        teacher, (train, held_out) = inputs.require_teacher(), inputs.splits.sources
        view, source = teacher.train_view, f"the teacher's answers to {train}"
        if part == "held_out":
            rows, source, view = inputs.teacher_eval_rows, held_out, teacher.eval_view
        elif part == "train":
            rows, source = teacher.rows(inputs.train), train
        return CacheJob(self._location(arm, part), part, self._kinds(arm, part), rows, source, teacher, view)

    def require_space(self, work: Sequence[tuple[ArmConfig, Part]]) -> None:
        """Check that all caches to be built fit onto the disk.

        Raises:
            StorageError: they do not.
        """
        needed = sum(bytes_before_loading(self.job(arm, part)) for arm, part in work)
        if needed:
            require_space(self._root, needed, what="the teachers' signals", otherwise=OTHERWISE)

    def used(self, records: Sequence[RunRecord]) -> tuple[CacheUse, ...]:
        """Return the caches that runs have read, each once; of those that the study made, as they were made."""
        uses: dict[str, CacheUse] = {}
        for use in (use for record in records for use in record.caches):
            built = Path(use.path) / "built.json"
            uses.setdefault(use.path, read_record(CacheUse, built) if built.is_file() else use)
        return tuple(uses.values())

    @property
    def _root(self) -> Path:
        folder = self.recipe.cache.folder
        return Path(folder) if folder else Path(self.recipe.output) / "cache"

    def _teacher(self, arm: ArmConfig) -> TeacherConfig:
        return only_teacher(self.recipe, arm)

    def _part(self, arm: ArmConfig) -> _Shared:
        return "answers" if arm.resolved().answers == "teacher" else "train"

    def _reads(self, arm: ArmConfig) -> bool:
        method = arm.resolved()
        return method.reads_signals and method.can_be_cached and arm.name not in self.uncached

    def _wants(self, arm: ArmConfig, part: Part) -> bool:
        if part == "held_out":
            teacher = self.inputs(arm).teacher
            return teacher is not None and bool(held_out_kinds(teacher)) and len(self.inputs(arm).eval_rows) > 0
        return self._reads(arm) and self._part(arm) == part

    def _kinds(self, arm: ArmConfig, part: Part) -> tuple[KindConfig, ...]:
        """Return the kinds that the recipe names, else those that the arms that share a part read."""
        if part == "held_out":
            return held_out_kinds(self.inputs(arm).require_teacher())
        return self._kinds_at(self._key(arm, part), "answers" if part == "answers" else "train")

    def _kinds_at(self, key: str, part: _Shared) -> tuple[KindConfig, ...]:
        arms = one_teacher_each(self.recipe, self.recipe.arms)
        sharing = [arm for arm in arms if self._key(arm, part) == key and self._wants(arm, part)]
        if self.recipe.cache.kinds is not None and sharing:
            return self.recipe.cache.kinds
        return arms_kinds([self.inputs(arm) for arm in sharing])

    def _key(self, arm: ArmConfig, part: Part) -> str:
        """Return the key of an arm; arms of one key share a location."""
        key = self._teacher(arm).model_dump_json(exclude={"measure_full_precision"})
        if isinstance(arm, PartArm) and self.recipe.data.teacher_column is not None:
            key += f"the rows of {arm.part}"
        if part != "held_out" and arm.resolved().tokens == "aligned":
            key += "its own tokens"
        if part == "answers":
            key += (arm.teacher_answers or self.recipe.teacher_answers).model_dump_json()
        return key

    def _location(self, arm: ArmConfig, part: Part) -> Path:
        """Return the location, whose name is a hash of all that decides its content."""
        key = self._key(arm, part)
        if key not in self._locations:
            inputs = self.inputs(arm)
            teacher = inputs.require_teacher()
            by_student = part == "held_out" and teacher.own_tokens
            train = inputs.train.rows if by_student else teacher.rows(inputs.train)
            digest = hashlib.sha256(key.encode())
            digest.update(self.recipe.cache.model_dump_json(exclude={"folder", "kinds"}).encode())
            digest.update(repr(self._kinds_at(key, "answers" if part == "answers" else "train")).encode())
            for row in (*train, *inputs.teacher_eval_rows):
                digest.update(row_digest(row.input_ids, row.answer_mask))
            name = f"{teacher_name(self._teacher(arm))}-{digest.hexdigest()[:12]}"
            self._locations[key] = self._root / name
        return self._locations[key]

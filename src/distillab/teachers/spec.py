"""Read what is known of a teacher before its weights are loaded: its name, its files, its cache."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace
from typing import get_args

from distillab.cache.folder import read_identity
from distillab.cache.identity import CacheIdentity
from distillab.cache.sources import open_source
from distillab.config.student import StudentConfig
from distillab.config.teacher import TeacherConfig
from distillab.errors import CacheMismatch, TeacherError
from distillab.in_memory import in_memory
from distillab.models.gguf import quantization_of
from distillab.models.loading import model_name, weights_sha256
from distillab.models.weights import require_adapter, require_weights
from distillab.paths import is_local
from distillab.teachers.stored.location import Part, has_part, kept_tokenizer, part_of, require_location


@dataclass(frozen=True)
class TeacherSpec:
    """A teacher as a recipe names it and as it is found on disk.

    Attributes:
        settings: of the recipe.
        name: in records.
        config, tokenizer: folder or hub id that has config.json, and that has the tokenizer's files.
        revision: of both, if they are from a hub.
        weights_sha256: of its weight files; with only a cache, of the weights that it was made with.
        adapter_sha256: of the adapters on its weights; None where it has none.
        parts: part -> identity of what its cache holds; empty if there is no cache.
    """

    settings: TeacherConfig
    name: str
    config: str
    tokenizer: str
    revision: str | None
    weights_sha256: str
    adapter_sha256: str | None
    parts: dict[Part, CacheIdentity]

    @property
    def text_only(self) -> bool:
        """Whether nothing is known of it but its text: it has no folder, and its answers are the student's tokens."""
        return self.settings.path is None and self.settings.server is not None

    def read_by(self, student: StudentConfig) -> TeacherSpec:
        """Return the same with the student's tokenizer where it has none that is known."""
        if not self.text_only:
            return self
        tokenizer = student.tokenizer or student.path
        return replace(self, config=student.path, tokenizer=tokenizer, revision=student.revision)

    @property
    def fingerprints(self) -> dict[str, str]:
        """The teacher's weights, and every part of its cache, for the folder of a run."""
        caches = {f"cache_{part}": identity.fingerprint for part, identity in self.parts.items()}
        adapter = {} if self.adapter_sha256 is None else {"teacher_adapter": self.adapter_sha256}
        return {"teacher": self.weights_sha256, **adapter, **caches}

    def with_settings(self, settings: TeacherConfig) -> TeacherSpec:
        """Return the same weights with other settings of their loading, and the name that tells them apart."""
        named = settings.path is not None or settings.server is not None
        return replace(self, settings=settings, name=teacher_name(settings) if named else self.name)

    def require_same_day(self, day: datetime.date | None) -> None:
        """Check that the cached rows have the same date as the run.

        Args:
            day: that the run's chat template writes; None: it writes none.
        Raises:
            CacheMismatch: they have another date.
        """
        for part, identity in self.parts.items():
            if day is not None and identity.template_date not in (None, day):
                raise CacheMismatch(
                    "The chat template writes the date, and the cache was made with another date than this run's.",
                    where=f"teacher.cache, part {part}",
                    facts=[f"the cache: {identity.template_date}", f"this run: {day}"],
                    fix=f"set data.date: {identity.template_date}, or build a cache with this run's date",
                )


def teacher_name(settings: TeacherConfig) -> str:
    """Return the name of a teacher in records: its folder's, adapters', quantisation and prompts; "served".

    With a cache alone it is the name of the teacher that it was made with.

    Raises:
        CacheMismatch, CacheCorrupt: see `teacher_spec`.
    """
    if settings.path is None and settings.cache is not None:
        return next(iter(_identities(settings.cache).values())).teacher.name
    adapter = None if settings.adapter is None else model_name(settings.adapter)
    served = None if settings.server is None else "served"
    parts = (model_name(settings.source), adapter, settings.quantization, settings.prompt_column, served)
    return "-".join(part for part in parts if part is not None)


def teacher_spec(settings: TeacherConfig, *, weights: bool = True) -> TeacherSpec:
    """Read what a teacher's folder and cache state, without loading anything large.

    Args:
        weights: False: they need not be there.
    Raises:
        TeacherError: its folder lacks what loading will need.
        CacheMismatch: it is no cache, or the cache of another teacher.
        CacheCorrupt: the cache is damaged.
    """
    path, cache = settings.path, settings.cache
    parts = {} if cache is None else _identities(cache)
    if path is None and settings.server is not None:
        name, sha256 = teacher_name(settings), settings.server.identity_sha256
        return TeacherSpec(settings, name, "", "", None, sha256, None, parts)
    if path is None:
        kept = str(kept_tokenizer(settings.source))
        teacher = next(iter(parts.values())).teacher
        of_weights, of_adapter = teacher.weights_sha256, teacher.adapter_sha256
        return TeacherSpec(settings, teacher.name, kept, kept, None, of_weights, of_adapter, parts)
    if in_memory(path) is not None and (settings.adapter or settings.quantization):
        raise TeacherError(
            "The teacher is in memory, and teacher.adapter and teacher.quantization are for its loading."
        )
    if weights and settings.server is None:
        require_weights(path, role="teacher")
    of_weights, of_adapter = weights_sha256(path) if settings.server is None else settings.server.identity_sha256, None
    if settings.adapter is not None:
        require_adapter(settings.adapter, base=path, base_sha256=of_weights if is_local(path) else None)
        of_adapter = weights_sha256(settings.adapter)
    if cache is not None:
        for part, identity in parts.items():
            _require_same_weights(identity, settings, of_weights, of_adapter, part_of(cache, part))
    name, tokenizer = teacher_name(settings), settings.tokenizer or path
    return TeacherSpec(settings, name, path, tokenizer, settings.revision, of_weights, of_adapter, parts)


def _identities(location: str) -> dict[Part, CacheIdentity]:
    require_location(location)
    names: tuple[Part, ...] = get_args(Part)
    found = {part: read_identity(open_source(part_of(location, part))) for part in names if has_part(location, part)}
    teachers = {part: identity.teacher.weights_sha256 for part, identity in found.items()}
    if len(set(teachers.values())) > 1:
        raise CacheMismatch(
            "The parts of the cache are of different teachers.",
            where=location,
            facts=[f"{part}: weights {sha256[:16]}" for part, sha256 in teachers.items()],
            fix="build the cache again in a new folder",
        )
    return found


def _require_same_weights(
    identity: CacheIdentity, settings: TeacherConfig, sha256: str, adapter_sha256: str | None, where: str
) -> None:
    quantization = quantization_of(settings.source, settings.quantization)
    # a hub id is hashed by its name, so its revision is compared as well
    compared = [
        ("weights", identity.teacher.weights_sha256, sha256),
        ("revision", identity.revision, settings.revision),
        ("adapter", identity.teacher.adapter_sha256, adapter_sha256),
        ("quantization", identity.teacher.quantization, quantization),
    ]
    if settings.dtype != "auto":
        compared.append(("dtype", identity.teacher.dtype, settings.dtype))
    facts = [f"{name}: in the cache {there}; teacher.path {here}" for name, there, here in compared if there != here]
    if facts:
        raise CacheMismatch(
            "The cache is of another teacher than teacher.path.",
            where=where,
            facts=[f"names: in the cache {identity.teacher.name}; teacher.path {settings.path}", *facts],
            fix="leave teacher.path out, name the teacher that the cache was made with, or build a cache of this one",
        )

"""Where that is read which is known of a teacher before its weights: its tokenizer, its sizes, its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from distillab.cache.folder import read_identity
from distillab.cache.identity import CacheIdentity
from distillab.cache.sources import open_source
from distillab.config.models import TeacherConfig
from distillab.errors import CacheMismatch
from distillab.models.loading import model_name, weights_sha256
from distillab.models.weights import require_weights
from distillab.teachers.cache_parts import Part, has_part, kept_tokenizer, part_of, require_location


@dataclass(frozen=True)
class TeacherSpec:
    """A teacher, as it is found.

    Attributes:
        name: what it is called in records.
        config, tokenizer: folder or hub id that has config.json, and that has the tokenizer's files.
        revision: of both, where they come from a hub.
        weights_sha256: of its weight files; with a cache alone, of those that it was made with.
        parts: part -> identity of what its cache holds; empty where there is no cache.
    """

    name: str
    config: str
    tokenizer: str
    revision: str | None
    weights_sha256: str
    parts: dict[Part, CacheIdentity]

    @property
    def fingerprints(self) -> dict[str, str]:
        """The teacher's weights, and every part of its cache, for the folder of a run."""
        caches = {f"cache_{part}": identity.fingerprint for part, identity in self.parts.items()}
        return {"teacher": self.weights_sha256, **caches}


def find_teacher_spec(settings: TeacherConfig) -> TeacherSpec:
    """Look at a teacher's folder and cache, without loading anything large.

    Raises:
        TeacherError: its folder lacks what loading will need.
        CacheMismatch: the cache is none, or is that of another teacher.
        CacheCorrupt: the cache is damaged.
    """
    parts = {} if settings.cache is None else _identities(settings.cache)
    if settings.path is None:
        assert settings.cache is not None  # the settings have one of the two
        kept = str(kept_tokenizer(settings.cache))
        teacher = next(iter(parts.values())).teacher
        return TeacherSpec(teacher.name, kept, kept, None, teacher.weights_sha256, parts)
    require_weights(settings.path, role="teacher")
    sha256 = weights_sha256(settings.path)
    for part, identity in parts.items():
        assert settings.cache is not None
        _require_same_weights(identity, settings, sha256, part_of(settings.cache, part))
    return TeacherSpec(
        model_name(settings.path),
        settings.path,
        settings.tokenizer or settings.path,
        settings.revision,
        sha256,
        parts,
    )


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


def _require_same_weights(identity: CacheIdentity, settings: TeacherConfig, sha256: str, where: str) -> None:
    # the hash of a hub id is that of its name, so its revision counts as well
    sides = [
        ("weights", identity.teacher.weights_sha256, sha256),
        ("revision", identity.revision, settings.revision),
    ]
    if settings.dtype != "auto":
        sides.append(("dtype", identity.teacher.dtype, settings.dtype))
    facts = [f"{name}: in the cache {there}; teacher.path {here}" for name, there, here in sides if there != here]
    if facts:
        raise CacheMismatch(
            "The cache is of another teacher than teacher.path.",
            where=where,
            facts=[f"names: in the cache {identity.teacher.name}; teacher.path {settings.path}", *facts],
            fix="leave teacher.path out, name the teacher that the cache was made with, or build a cache of this one",
        )

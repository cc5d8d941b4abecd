"""The caches of a pair: each kind recorded once, as many in one pass over the teacher as a folder can hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from bench.cache_pairs import CPU, Pair
from bench.cache_signals import Way, ways
from distillab.cache.reader import CacheReader
from distillab.cache.writer import CacheWriter
from distillab.config.cache import CacheConfig, KindConfig
from distillab.teachers.stored.teacher import CachedTeacher
from distillab.teachers.stored.writing import identity_of, write_cache

_SETTINGS = CacheConfig()


@dataclass(frozen=True)
class Size:
    """Bytes on the disk, and the scored tokens that they are of.

    Attributes:
        kind: the records of the kind.
        rest: everything else of a shard that any kind needs: header, index, the rows' own tokens.
        head: the teacher's head, stored once whatever the number of rows (kind full).
        tokens: scored tokens.
    """

    kind: int
    rest: int
    head: int
    tokens: int


@dataclass(frozen=True)
class RecordedPair:
    """The caches of a pair below `folder`."""

    pair: Pair
    folder: Path

    def record(self) -> None:
        """Make what is missing; a pass over the teacher for each folder."""
        live = None
        for number, kinds in enumerate(_shares()):
            if self._complete(number):
                continue
            live = live or self.pair.load_teacher()
            rows = self.pair.train.rows
            identity = identity_of(
                live.identity,
                rows,
                _SETTINGS,
                kinds=kinds,
                width=self.pair.width,
                tokenizer=self.pair.teacher,
                template_sha256=live.identity.provenance.template_sha256,
                source=f"{self.pair.name} train",
            )
            writer = CacheWriter(self._at(number), identity)
            write_cache(live, rows, collator=self.pair.collator, identity=identity, writer=writer)

    def teacher(self, way: Way) -> CachedTeacher:
        """What the way learns from, read from the disk."""
        return CachedTeacher(CacheReader(self._at(self._number(way))), device=CPU)

    def size(self, way: Way) -> Size:
        """What the way's kind takes."""
        assert way.kind is not None
        folder = self._at(self._number(way))
        kind = rest = 0
        for path in sorted((folder / "shards").glob("*.safetensors")):
            records = _record_bytes(path)
            kind += records[way.kind.kind]
            rest += path.stat().st_size - sum(size for name, size in records.items() if name != "tokens")
        head = folder / "head.safetensors"
        return Size(
            kind=kind,
            rest=rest,
            head=head.stat().st_size if way.kind.kind == "full" and head.exists() else 0,
            tokens=sum(int(row.answer_mask.sum()) for row in self.pair.train.rows),
        )

    def _at(self, number: int) -> Path:
        return self.folder / f"part-{number}"

    def _complete(self, number: int) -> bool:
        folder = self._at(number)
        return (folder / "identity.json").exists() and CacheReader(folder).complete

    def _number(self, way: Way) -> int:
        return next(number for number, kinds in enumerate(_shares()) if way.kind in kinds)


def _shares() -> list[list[KindConfig]]:
    """All kinds of all ways, in as few folders as hold each kind once."""
    found: list[list[KindConfig]] = []
    for kind in dict.fromkeys(way.kind for way in ways() if way.kind is not None):
        free = next((share for share in found if all(other.kind != kind.kind for other in share)), None)
        if free is None:
            found.append(free := [])
        free.append(kind)
    return found


def _record_bytes(shard: Path) -> dict[str, int]:
    """Kind -> bytes of its records in a shard, read with the safetensors library and not with our reader."""
    with safe_open(shard, framework="numpy") as file:
        names = [name.removesuffix(".bytes") for name in file.keys() if name.endswith(".bytes")]  # noqa: SIM118
        return {name: int(file.get_slice(f"{name}.bytes").get_shape()[0]) for name in names}

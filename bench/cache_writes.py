"""CacheJob, against the teacher's own forward pass over the same batches."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.cache_pairs import CPU, real, wide
from bench.cache_reads import clocks
from bench.distillab_steps import provenance, split_of
from bench.pair import teacher_of
from bench.settings import SIZES
from distillab.cache.writer import CacheWriter
from distillab.config.cache import CacheConfig, FullKind, KindConfig, SampledKind, TopKKind
from distillab.data.collation import Collator, IndexedRow
from distillab.data.encoding import EncodedRow
from distillab.models.inputs import model_inputs
from distillab.teachers import LocalTeacher
from distillab.teachers.stored.writing import batches, identity_of, write_cache

_SETTINGS = CacheConfig(rows_per_shard=16, batch_size=8)

KINDS: dict[str, tuple[KindConfig, ...]] = {
    "top_k 64": (TopKKind(k=64),),
    "sampled 50": (SampledKind(draws=50),),
    "full": (FullKind(),),
    "all three": (TopKKind(k=64), SampledKind(draws=50), FullKind()),
}


@dataclass(frozen=True)
class Asked:
    """A teacher and the rows that it reads."""

    name: str
    teacher: LocalTeacher
    rows: Sequence[EncodedRow]
    collator: Collator
    width: int

    def forward(self) -> None:
        """The teacher's own forward pass over all rows, to its logits, in the batches that `record` makes."""
        model = self.teacher.model
        size = _SETTINGS.rows_per_shard
        with torch.no_grad():
            for start in range(0, len(self.rows), size):
                share = self.rows[start : start + size]
                for places in batches([len(row) for row in share], _SETTINGS.batch_size):
                    batch = self.collator([IndexedRow(place, share[place]) for place in places])
                    model(**model_inputs(batch, CPU, model=model))

    def record(self, kinds: Sequence[KindConfig]) -> None:
        """The same rows into a cache."""
        identity = identity_of(
            self.teacher.identity,
            self.rows,
            _SETTINGS,
            kinds=kinds,
            width=self.width,
            tokenizer=self.name,
            template_sha256=self.teacher.identity.provenance.template_sha256,
            source=self.name,
        )
        with tempfile.TemporaryDirectory() as folder:
            writer = CacheWriter(Path(folder) / "cache", identity)
            write_cache(self.teacher, self.rows, collator=self.collator, identity=identity, writer=writer)


def writes(rounds: int, *, materials: Path) -> list[dict[str, Any]]:
    """One entry a teacher, kind and round: tokens a second of the forward alone and of recording."""
    found = []
    for asked in _teachers(materials):
        tokens = sum(len(row) for row in asked.rows)
        asked.forward()
        for number in range(1, rounds + 1):
            alone_wall, alone_cpu = clocks(asked.forward)
            for name, kinds in KINDS.items():
                wall, cpu = clocks(partial(asked.record, kinds))
                found.append(
                    {
                        "round": number,
                        "case": f"{asked.name}: {name}",
                        "forward_tokens_per_s": tokens / alone_wall,
                        "record_tokens_per_s": tokens / wall,
                        "share_wall": alone_wall / wall,
                        "share_cpu": alone_cpu / cpu,
                    }
                )
    return found


def _teachers(materials: Path) -> list[Asked]:
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for pair, label in ((real(materials), "3.3 M, 512 ids"), (wide(materials, Path(scratch)), "4.9 M, 32,000 ids")):
            rows = list(pair.train.rows[:64])
            found.append(Asked(label, pair.load_teacher(), rows, pair.collator, pair.width))
    size = SIZES["large"]
    large = LocalTeacher(teacher_of(size), provenance())
    parameters = sum(p.numel() for p in large.model.parameters())
    found.append(
        Asked(f"{parameters / 1e6:.0f} M, random, 32,000 ids", large, split_of(size).rows, Collator(0), size.vocabulary)
    )
    return found

"""A tiny teacher with peaked distributions, and caches of what it says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from distillab.cache.identity import CacheIdentity
from distillab.cache.reader import CacheReader
from distillab.cache.writer import CacheWriter
from distillab.config.cache import CacheConfig, KindConfig
from distillab.data.collation import Collator
from distillab.data.encoding import EncodedRow
from distillab.teachers.local import LocalTeacher
from distillab.teachers.stored.teacher import CachedTeacher
from distillab.teachers.stored.writing import identity_of, write_cache
from tests.training.conftest import VOCABULARY, teacher, tiny_llama

CPU = torch.device("cpu")
PAD = 0


def peaked_teacher(dtype: torch.dtype = torch.float32) -> LocalTeacher:
    """Three blocks; its likeliest token has 0.1 to 0.9 of the mass, where random weights would give 0.02."""
    model = tiny_llama(99, layers=3)
    with torch.no_grad():
        model.lm_head.weight.mul_(30)
    return teacher(model.to(dtype))


def identity_for(
    source: LocalTeacher, rows: Sequence[EncodedRow], kinds: Sequence[KindConfig], *, width: int, settings: CacheConfig
) -> CacheIdentity:
    return identity_of(
        source.identity,
        rows,
        settings,
        kinds=kinds,
        width=width,
        tokenizer="tokenizer-fingerprint",
        template_sha256=source.identity.provenance.template_sha256,
        source="rows.jsonl",
    )


def build(
    folder: Path,
    source: LocalTeacher,
    rows: Sequence[EncodedRow],
    kinds: Sequence[KindConfig],
    *,
    width: int = VOCABULARY,
    worker: int = 0,
    workers: int = 1,
    **settings: Any,
) -> Path:
    """Record all shards of a worker; small ones, so that there are several."""
    config = CacheConfig(**{"rows_per_shard": 5, "batch_size": 3, **settings})
    identity = identity_for(source, rows, kinds, width=width, settings=config)
    writer = CacheWriter(folder, identity, worker=worker, workers=workers)
    write_cache(source, rows, collator=Collator(PAD), identity=identity, writer=writer)
    return folder


def cached(folder: Path) -> CachedTeacher:
    return CachedTeacher(CacheReader(folder), device=CPU)

"""Whole optimizer steps of the real trainer where the teacher's word comes from a cache on the disk.

The cache is recorded before the first step, from the same random teacher that the online cases ask, which is then let
go. A random teacher is flat: 50 draws are 50 different tokens, where a trained one gives a dozen, so `sampled` has more
to read here than it would have.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from bench.distillab_steps import provenance, split_of, take_steps
from bench.measure import Probe
from bench.pair import student_of, teacher_of
from bench.settings import Run
from distillab.cache.reader import CacheReader
from distillab.cache.writer import CacheWriter
from distillab.config.cache import CacheConfig, FullKind, KindConfig, SampledKind, TopKKind
from distillab.config.terms import SampledDivergenceConfig, TermConfig, TokenDivergenceConfig, TopKDivergenceConfig
from distillab.data.collation import Collator
from distillab.teachers import LocalTeacher
from distillab.teachers.stored.teacher import CachedTeacher
from distillab.teachers.stored.writing import identity_of, write_cache

_SETTINGS = CacheConfig(batch_size=4)

WAYS: dict[str, tuple[KindConfig, TermConfig]] = {
    "offline_top_k": (TopKKind(k=64), TopKDivergenceConfig(k=64)),
    "offline_sampled": (SampledKind(draws=50), SampledDivergenceConfig(samples=50)),
    "offline_full": (FullKind(), TokenDivergenceConfig()),
}


def train_offline(run: Run, probe: Probe) -> None:
    """Steps on the term that the case names, from a cache of its kind."""
    kind, term = WAYS[run.case]
    with tempfile.TemporaryDirectory() as folder:
        location = Path(folder) / "cache"
        _record(run, kind, location)
        probe.facts["cache_bytes"] = sum(path.stat().st_size for path in location.rglob("*") if path.is_file())
        teacher = CachedTeacher(CacheReader(location), device=torch.device(run.device))
        take_steps(run, probe, student=student_of(run.shape, run.device), teacher=teacher, terms=(term,))


def _record(run: Run, kind: KindConfig, location: Path) -> None:
    size = run.shape
    rows = split_of(size).rows
    live = LocalTeacher(teacher_of(size, run.device), provenance())
    identity = identity_of(
        live.identity,
        rows,
        _SETTINGS,
        kinds=[kind],
        width=size.vocabulary,
        tokenizer="random",
        template_sha256="0",
        source="random",
    )
    write_cache(live, rows, collator=Collator(0), identity=identity, writer=CacheWriter(location, identity))

"""Choose the cache kinds that methods need, and write one part of a cache location.

Signals are recorded for three sets of rows: the training rows, the training rows with the teacher's answers, and the
held-out rows of the evaluation (for their folders see `teachers/stored/location.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from distillab.cache.bits import bits_for
from distillab.cache.identity import CacheIdentity
from distillab.cache.kinds import Layout
from distillab.cache.layout import TokensLayout
from distillab.cache.reader import CacheReader
from distillab.cache.writer import CacheWriter
from distillab.config.cache import (
    CacheConfig,
    KindConfig,
    TopKKind,
)
from distillab.config.terms import TermConfig
from distillab.data.encoding import EncodedRow
from distillab.data.vocabularies import Vocabularies
from distillab.files import require_space
from distillab.models.loading import load_config
from distillab.models.pruning import student_config
from distillab.models.structure import ModelShape, config_shape
from distillab.objectives.build import build_objective
from distillab.records import CacheUse, read_record, write_record
from distillab.runs.first_rows import FirstRows
from distillab.runs.inputs import RunInputs
from distillab.runs.teacher_view import TeacherView, TokenView
from distillab.teachers.protocol import SignalSource, TeacherIdentity
from distillab.teachers.served.teacher import ServedCapabilities, ServedTeacher
from distillab.teachers.signals import Distribution, SignalRequest
from distillab.teachers.stored.activations import WHOLE_DISTRIBUTIONS
from distillab.teachers.stored.kinds import kinds_for, resolve_layouts
from distillab.teachers.stored.location import Part, keep_tokenizer, part_of
from distillab.teachers.stored.writing import identity_of, write_cache

_HEAD_BYTES = 4  # largest bytes of a weight
_ROW_BYTES = 96  # bytes of a row in the index: key, digest, lengths; and for every kind an end and a checksum
_KIND_BYTES = 16


def request_needed(
    terms: Sequence[TermConfig],
    *,
    width: int,
    student: ModelShape,
    teacher: ModelShape,
    vocabularies: Vocabularies | None = None,
    mixed: bool = False,
) -> SignalRequest:
    """Return what all these terms read of the teacher.

    Args:
        terms: of all arms that share a teacher.
        width: ids that are compared.
        student, teacher: sizes, by which named layer maps are resolved.
        vocabularies: both, for terms on two tokenisations.
        mixed: the teacher is part of a mixture, which is computed from whole distributions.
    Raises:
        ConfigError: a term does not fit the two models.
    """
    objective = build_objective(terms, shared_width=width, student=student, teacher=teacher, vocabularies=vocabularies)
    request = objective.request
    if mixed:
        request = replace(request, scores=request.scores | {Distribution(width)})
    return request


def held_out_kinds(teacher: TeacherView) -> tuple[KindConfig, ...]:
    """Return the kinds that the evaluation reads: whole distributions, if ids mean the same to both models.

    A server gives none.
    """
    return WHOLE_DISTRIBUTIONS if teacher.eval_view.width and teacher.spec.settings.server is None else ()


def require_given(inputs: RunInputs) -> None:
    """Refuse, before anything is loaded or asked, a method that reads what the teacher's server does not give.

    Raises:
        TeacherError: it does.
    """
    for part in (inputs.parts or {"": inputs}).values():
        server = None if part.teacher is None else part.teacher.spec.settings.server
        if part.teacher is not None and server is not None and part.method.reads_signals:
            gives = ServedCapabilities(server.url, server.k, part.teacher.train_view.width)
            gives.require(_request([part]), packing=part.recipe.training.packing)


def arms_kinds(arms: Sequence[RunInputs]) -> tuple[KindConfig, ...]:
    """Return the kinds that several runs with one pair of models read; empty if they read nothing.

    Args:
        arms: those whose signals can be cached (`Method.can_be_cached`), whose teacher reads the same tokens.
    """
    if not arms:
        return ()
    request = _request(arms)
    widths = [need.width for need in request.scores if isinstance(need, Distribution)]
    if widths and arms[0].require_teacher().spec.settings.server is not None:
        return (TopKKind(k=max(widths), values="float16"),)  # all that there are, which is the whole distribution
    return kinds_for(request)


def _request(arms: Sequence[RunInputs]) -> SignalRequest:
    """Return what they read."""
    student, teacher = arms[0].recipe.student, arms[0].require_teacher()
    return request_needed(
        [term for inputs in arms for term in inputs.method.terms],
        width=teacher.train_view.width,
        student=config_shape(student_config(student)),
        teacher=config_shape(load_config(teacher.spec.config, revision=teacher.spec.revision)),
        vocabularies=teacher.vocabularies,
        mixed=any(inputs.mixed for inputs in arms),
    )


@dataclass(frozen=True, eq=False)
class CacheJob:
    """A part of a cache location to be built.

    Attributes:
        location: the cache location.
        part: which part of it.
        kinds: what is recorded.
        rows: the teacher's inputs.
        source: name of the rows, for messages.
        teacher: whose signals are recorded.
        view: how it reads these rows.
    """

    location: Path
    part: Part
    kinds: tuple[KindConfig, ...]
    rows: Sequence[EncodedRow]
    source: str
    teacher: TeacherView
    view: TokenView

    @property
    def folder(self) -> Path:
        """Where the part goes."""
        return Path(part_of(str(self.location), self.part))

    @property
    def built(self) -> Path:
        """The record of the finished part; written last."""
        return self.folder / "built.json"


def bytes_before_loading(job: CacheJob) -> int:
    """Return bytes that a job will take, from the teacher's configuration alone."""
    spec = job.teacher.spec
    config = load_config(spec.config, revision=spec.revision)
    dtype: str = spec.settings.dtype
    if dtype == "auto":
        dtype = str(config.dtype or "float32").removeprefix("torch.")
    layouts = resolve_layouts(job.kinds, shape=config_shape(config), dtype=dtype, width=job.view.width)
    return bytes_needed(layouts, job.rows, vocabulary=int(config.get_text_config().vocab_size))


def bytes_needed(layouts: Sequence[Layout], rows: Sequence[EncodedRow], *, vocabulary: int) -> int:
    """Return the bytes of a cache of these rows on disk, without compression; for `sampled` the largest possible.

    Args:
        layouts: of all kinds.
        vocabulary: rows of the teacher's head, which kind full stores once.
    """
    every = (TokensLayout(id_bits=bits_for(vocabulary)), *layouts)
    records = sum(
        layout.record_bytes(tokens=len(row), scored=int(row.answer_mask.sum())) for row in rows for layout in every
    )
    head = sum(vocabulary * (layout.head_inputs + 1) * _HEAD_BYTES for layout in layouts if layout.stores_head)
    return head + records + len(rows) * (_ROW_BYTES + _KIND_BYTES * len(every))


def identity_for(job: CacheJob, *, teacher: TeacherIdentity, settings: CacheConfig) -> CacheIdentity:
    """Return the identity of a job's part; the arguments as in `write_part`.

    Raises:
        ConfigError: a layer or block that the teacher does not have.
    """
    template = job.view.reader.encoder.template
    return identity_of(
        teacher,
        job.rows,
        settings,
        kinds=job.kinds,
        width=job.view.width,
        tokenizer=job.view.fingerprint,
        template_sha256=template.sha256,
        template_date=template.date,
        source=job.source,
    )


def write_part(
    job: CacheJob,
    *,
    teacher: SignalSource,
    settings: CacheConfig,
    worker: int = 0,
    workers: int = 1,
    otherwise: str | None = None,
) -> CacheUse | None:
    """Write one part of a cache location, or its missing shards. It resumes after an interruption.

    Args:
        job: the part.
        teacher: whose signals these are.
        settings: sizes of files and batches, compression, seed of the draws.
        worker, workers: this process makes the shards with number % workers == worker.
        otherwise: another fix than more space, for the message of a full disk.
    Returns:
        The record of the finished part; None if shards of other workers are still missing.
    Raises:
        StorageError: the disk has too little space.
        CacheMismatch: the folder holds a cache of another identity.
        ConfigError: a layer or block that the teacher does not have.
    """
    identity = identity_for(job, teacher=teacher.identity, settings=settings)
    folder = job.folder
    writer = CacheWriter(folder, identity, worker=worker, workers=workers)
    shards = -(-identity.rows // identity.rows_per_shard)
    needed = bytes_needed(identity.layouts, job.rows, vocabulary=teacher.identity.vocab_size)
    missing = math.ceil(needed * len(writer.todo()) / shards)
    require_space(folder, missing, what=f"the teacher's signals on {job.source}", otherwise=otherwise)
    spec = job.teacher.spec
    keep_tokenizer(job.location, job.teacher.reader.tokenizer, load_config(spec.config, revision=spec.revision))
    if isinstance(teacher, ServedTeacher):
        vocabulary = len(job.view.reader.tokenizer)
        teacher.on_scored = FirstRows(job.rows, vocabulary=vocabulary, where=teacher.identity.engine["server"])
    done = write_cache(teacher, job.rows, collator=job.view.reader.collator(), identity=identity, writer=writer)
    made = CacheReader(folder)
    if not made.complete:
        return None
    if not done.rows and job.built.is_file():
        return read_record(CacheUse, job.built)  # its record has the time
    use = CacheUse(
        path=str(folder),
        fingerprint=identity.fingerprint,
        teacher=identity.teacher.name,
        source=job.source,
        kinds=identity.kinds,
        rows=len(job.rows),
        tokens=sum(len(row) for row in job.rows),
        scored_tokens=sum(int(row.answer_mask.sum()) for row in job.rows),
        stored_bytes=made.stored_bytes,
        teacher_s=done.wall_s,
        served=teacher.cost if isinstance(teacher, ServedTeacher) else None,
    )
    write_record(use, job.built)
    return use

"""What a recipe's methods read of a teacher, as kinds of cache; and the recording of them.

What the teacher says is recorded for three sets of rows: the training rows, the training rows with its own answers, and
the held-out rows by which students are judged (see `teachers/cache_parts.py` for where each lies).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distillab.cache.bits import bits_for
from distillab.cache.identity import CacheIdentity
from distillab.cache.layout import Layout, TokensLayout
from distillab.cache.reader import CacheReader
from distillab.cache.sizes import record_bytes
from distillab.cache.writer import CacheWriter
from distillab.config.cache import (
    AttentionInputsKind,
    CacheConfig,
    FullKind,
    HiddenStatesKind,
    KindConfig,
    TopKKind,
)
from distillab.config.models import RunRecipe
from distillab.config.terms import AttentionMapsConfig, Positions, TermConfig
from distillab.data.encoding import EncodedRow
from distillab.data.vocabularies import Vocabularies
from distillab.files import require_space
from distillab.models.loading import load_config
from distillab.models.structure import ModelShape, config_shape
from distillab.objectives.build import build_objective
from distillab.records import CacheUse, read_record, write_record
from distillab.runs.inputs import RunInputs
from distillab.runs.sides import Side, asked_side, uses_teacher_tokenizer
from distillab.teachers.cache_parts import Part, keep_tokenizer, part_of
from distillab.teachers.layouts import resolve_layouts
from distillab.teachers.protocol import SignalSource, TeacherIdentity
from distillab.teachers.recording import identity_of, record
from distillab.teachers.signals import Top

_HEAD_BYTES = 4  # of a weight, at most
_ROW_BYTES = 96  # of a row in the index: key, digest, lengths; and for every kind an end and a checksum
_KIND_BYTES = 16


def reads_signals(recipe: RunRecipe) -> bool:
    """Whether any term reads the teacher."""
    return any(term.access != "none" for term in recipe.resolved().terms)


def can_be_cached(recipe: RunRecipe) -> bool:
    """Whether all that the terms read can be stored. Attention maps cannot: they grow with the square of a row."""
    return not any(isinstance(term, AttentionMapsConfig) for term in recipe.resolved().terms)


def kinds_needed(
    terms: Sequence[TermConfig],
    *,
    width: int,
    student: ModelShape,
    teacher: ModelShape,
    vocabularies: Vocabularies | None = None,
) -> tuple[KindConfig, ...]:
    """The kinds from which all of these terms read the same numbers as from the teacher itself, or nearly so.

    `full` serves every term that reads distributions. Where nothing but the k most likely tokens at one temperature
    are read, they alone are kept, at two bytes a log-probability.

    Args:
        terms: of all arms that share a teacher; no attention maps.
        width: ids that are compared.
        student, teacher: sizes, by which named layer maps are resolved.
        vocabularies: both, for terms on two tokenisations.
    Raises:
        ConfigError: a term does not fit the two models.
    """
    objective = build_objective(terms, shared_width=width, student=student, teacher=teacher, vocabularies=vocabularies)
    request = objective.request
    kinds: list[KindConfig] = []
    tops = [need for need in request.scores if isinstance(need, Top)]
    if len(tops) == len(request.scores) and len({need.temperature for need in tops}) == 1:
        kinds.append(TopKKind(k=max(need.k for need in tops), temperature=tops[0].temperature, values="float16"))
    elif request.scores:
        kinds.append(FullKind(store="exact"))
    if request.activations.hidden:
        positions: Positions = "answer" if request.hidden_at == {"answer"} else "all"
        layers = tuple(sorted(request.activations.hidden))
        kinds.append(HiddenStatesKind(layers=layers, positions=positions, store="exact"))
    if request.activations.projections:
        kinds.append(AttentionInputsKind(blocks=tuple(sorted(request.activations.projections)), store="exact"))
    return tuple(kinds)


def held_out_kinds(inputs: RunInputs) -> tuple[KindConfig, ...]:
    """What judging a student reads of the teacher: whole distributions, where ids mean the same on both sides."""
    return (FullKind(store="exact"),) if inputs.shared_width else ()


def arms_kinds(recipes: Sequence[RunRecipe], inputs: RunInputs) -> tuple[KindConfig, ...]:
    """The kinds that several recipes with one pair of models read; none where they read nothing.

    Args:
        recipes: those whose signals can be stored (`can_be_cached`), whose teacher reads the same tokens.
    """
    if not recipes:
        return ()
    recipe = recipes[0]
    assert inputs.place is not None
    return kinds_needed(
        [term for recipe in recipes for term in recipe.resolved().terms],
        width=asked_side(recipe, inputs).width,
        student=config_shape(load_config(recipe.student.path, revision=recipe.student.revision)),
        teacher=config_shape(load_config(inputs.place.config, revision=inputs.place.revision)),
        vocabularies=inputs.vocabularies if uses_teacher_tokenizer(recipe) else None,
    )


@dataclass(frozen=True, eq=False)
class CacheJob:
    """A part of a cache location that is to be made.

    Attributes:
        location: the cache location.
        part: which part of it.
        kinds: what is recorded.
        rows: of which rows, as the side's tokenizer reads them.
        source: name of the rows, for messages.
        side: whose tokens the teacher is asked about.
    """

    location: Path
    part: Part
    kinds: tuple[KindConfig, ...]
    rows: Sequence[EncodedRow]
    source: str
    side: Side

    @property
    def folder(self) -> Path:
        """Where the part goes."""
        return Path(part_of(str(self.location), self.part))

    @property
    def built(self) -> Path:
        """The record of the finished part; written last."""
        return self.folder / "built.json"


def bytes_before_loading(recording: CacheJob, inputs: RunInputs, *, dtype: str) -> int:
    """Bytes that a recording will take, from the teacher's configuration alone.

    Args:
        dtype: of the teacher's weights, as the recipe sets it; auto: what its configuration says.
    """
    assert inputs.place is not None
    config = load_config(inputs.place.config, revision=inputs.place.revision)
    if dtype == "auto":
        dtype = str(config.dtype or "float32").removeprefix("torch.")
    layouts = resolve_layouts(recording.kinds, shape=config_shape(config), dtype=dtype, width=recording.side.width)
    return bytes_needed(layouts, recording.rows, vocabulary=int(config.get_text_config().vocab_size))


def bytes_needed(layouts: Sequence[Layout], rows: Sequence[EncodedRow], *, vocabulary: int) -> int:
    """Bytes that a cache of these rows takes on the disk without compression; of `sampled` the most that it can.

    Args:
        layouts: of all kinds.
        vocabulary: rows of the teacher's head, which kind full stores once.
    """
    every = (TokensLayout(id_bits=bits_for(vocabulary)), *layouts)
    records = sum(
        record_bytes(layout, tokens=len(row), scored=int(row.answer_mask.sum())) for row in rows for layout in every
    )
    heads = [array for layout in layouts if layout.kind == "full" for array in layout.arrays]
    head = sum(vocabulary * (array.width + 1) * _HEAD_BYTES for array in heads)
    return head + records + len(rows) * (_ROW_BYTES + _KIND_BYTES * len(every))


def identity_for(recording: CacheJob, *, teacher: TeacherIdentity, settings: CacheConfig) -> CacheIdentity:
    """Return everything that decides what a recording holds; the arguments as in `build_cache`.

    Raises:
        ConfigError: a layer or block that the teacher does not have.
    """
    return identity_of(
        teacher,
        recording.rows,
        settings,
        kinds=recording.kinds,
        width=recording.side.width,
        tokenizer=recording.side.fingerprint,
        template_sha256=recording.side.reader.encoder.template.sha256,
        template_date=recording.side.reader.encoder.template.date,
        source=recording.source,
    )


def build_cache(
    recording: CacheJob,
    *,
    teacher: SignalSource,
    inputs: RunInputs,
    settings: CacheConfig,
    worker: int = 0,
    workers: int = 1,
    otherwise: str | None = None,
) -> CacheUse | None:
    """Make one part of a cache location, or what is missing of it. Killed at any instant, it resumes.

    Args:
        recording: what goes where.
        teacher: whose signals these are.
        inputs: the pair's tokenizers.
        settings: sizes of files and batches, compression, seed of the draws.
        worker, workers: this process makes the shards with number % workers == worker.
        otherwise: a way out beside more space, for the message of a full disk.
    Returns:
        The record of the finished part; None where shards of other workers are still missing.
    Raises:
        StorageError: it does not fit onto the disk.
        CacheMismatch: the folder holds the cache of something else.
        ConfigError: a layer or block that the teacher does not have.
    """
    assert inputs.teacher is not None
    assert inputs.place is not None
    identity = identity_for(recording, teacher=teacher.identity, settings=settings)
    folder = recording.folder
    writer = CacheWriter(folder, identity, worker=worker, workers=workers)
    shards = -(-identity.rows // identity.rows_per_shard)
    needed = bytes_needed(identity.layouts, recording.rows, vocabulary=teacher.identity.vocab_size)
    missing = math.ceil(needed * len(writer.todo()) / shards)
    require_space(folder, missing, what=f"what the teacher says of {recording.source}", otherwise=otherwise)
    keep_tokenizer(
        recording.location,
        inputs.teacher.tokenizer,
        load_config(inputs.place.config, revision=inputs.place.revision),
    )
    done = record(teacher, recording.rows, collator=recording.side.reader.collator(), identity=identity, writer=writer)
    made = CacheReader(folder)
    if not made.complete:
        return None
    if not done.rows and recording.built.is_file():
        return read_record(CacheUse, recording.built)  # which knows how long it took
    use = CacheUse(
        path=str(folder),
        fingerprint=identity.fingerprint,
        teacher=identity.teacher.name,
        source=recording.source,
        kinds=tuple(layout.kind for layout in identity.layouts),
        rows=len(recording.rows),
        tokens=sum(len(row) for row in recording.rows),
        scored_tokens=sum(int(row.answer_mask.sum()) for row in recording.rows),
        stored_bytes=made.stored_bytes,
        teacher_s=done.wall_s,
    )
    write_record(use, recording.built)
    return use

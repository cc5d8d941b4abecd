"""A student that is made from its teacher: made once for a run or a study, from training rows only, and kept.

folder/            a model folder for plain transformers, with the teacher's tokenizer
  pruning.json     where it comes from, what was kept, and by which scores; written last
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence

from transformers import PreTrainedModel

from distillab.cache.rows import row_digest
from distillab.config.identity import settings_identity
from distillab.config.pruning import PruningConfig
from distillab.data.collation import IndexedRow
from distillab.data.encoding import EncodedRow
from distillab.errors import ConfigError, DataError
from distillab.files import require_space
from distillab.models.batch import TokenBatch
from distillab.models.importance import Importance, measure_importance
from distillab.models.loading import load_config, load_model, model_name, weights_sha256
from distillab.models.narrowing import width_parts
from distillab.models.pruning import Kept, choose, pruned_model, pruned_sizes
from distillab.models.saving import save_student, saved_dtype
from distillab.models.structure import config_shape, model_shape
from distillab.progress import Progress
from distillab.records import CalibrationRows, ModelSizes, PruningRecord, read_record, write_record
from distillab.runs.folder import require_unchanged, sha256_of
from distillab.runs.inputs import RunInputs

RECORD = "pruning.json"
_BATCH_SIZE = 4  # the hidden states of all blocks are in memory at once
_AGAIN = "delete the folder, and the same command makes the student again"


def made_student(inputs: RunInputs) -> PreTrainedModel:
    """Load the student before training as it is kept, else make it and do not keep it.

    Raises:
        ConfigError: the teacher cannot be pruned so.
        DataError: what is kept is damaged, or another student.
    """
    if read_made(inputs) is None:
        return make_student(inputs)[0]
    settings = inputs.recipe.student
    return load_model(
        str(inputs.made),
        dtype=settings.dtype,
        device=inputs.device,
        revision=None,
        role="student",
        parallel=settings.parallel,
    )


def keep_student(inputs: RunInputs) -> PruningRecord | None:
    """Make the student and keep it, unless it is kept already; None: it is not made from its teacher.

    Raises:
        ConfigError, DataError: see `made_student`.
    """
    if inputs.recipe.student.from_teacher is None:
        return None
    return read_made(inputs) or save_made(inputs, *make_student(inputs))


def read_made(inputs: RunInputs) -> PruningRecord | None:
    """Read the record of the student that is kept, and check its files; None: there is none.

    Raises:
        DataError: it is damaged, or another student.
        ConfigError: the folder holds something else.
    """
    path = inputs.made / RECORD
    if not path.exists():
        if inputs.made.exists() and (not inputs.made.is_dir() or any(inputs.made.iterdir())):
            raise ConfigError(
                "The folder for the student is not empty, and distillab did not make it.",
                where=str(inputs.made),
                fix="choose another folder",
            )
        return None
    record = read_record(PruningRecord, path, fix=_AGAIN)
    identity = _identity(inputs)
    if record.identity != identity:
        raise DataError(
            "The folder holds a student of other settings, another teacher or other calibration rows.",
            where=str(inputs.made),
            facts=[f"there: {record.identity}", f"expected: {identity}"],
            fix=_AGAIN + "; or choose another folder",
        )
    require_unchanged(inputs.made, record.files, fix=_AGAIN)
    return record


def make_student(inputs: RunInputs) -> tuple[PreTrainedModel, PruningRecord]:
    """Load the teacher, measure its parts, and make the student of the best of them.

    Returns:
        The student in eval mode, and its record.
    Raises:
        ConfigError: the teacher cannot be pruned so.
    """
    teacher = load_whole(inputs)
    return student_from(inputs, teacher, importance_of(inputs, teacher))


def load_whole(inputs: RunInputs) -> PreTrainedModel:
    """Load the model that the student is made from, as the student will be."""
    settings = inputs.recipe.student
    return load_model(
        settings.path, dtype=settings.dtype, device=inputs.device, revision=settings.revision, role="student"
    )


def student_from(
    inputs: RunInputs, teacher: PreTrainedModel, importance: Importance
) -> tuple[PreTrainedModel, PruningRecord]:
    """Make the student of what the settings choose by `importance`; see `make_student`."""
    pruning = _pruning(inputs)
    kept = choose(pruned_sizes(teacher.config, pruning), pruning, importance, blocks=model_shape(teacher).blocks)
    student = pruned_model(teacher, kept)
    return student, _record(inputs, teacher, student, kept, importance)


def save_made(inputs: RunInputs, student: PreTrainedModel, record: PruningRecord) -> PruningRecord:
    """Write a student that was made, its record last; return the record with the hashes of the files."""
    folder, settings, reader = inputs.made, inputs.recipe.student, inputs.student
    dtype = saved_dtype("source", load_config(settings.path, revision=settings.revision), student)
    require_space(folder, student.num_parameters() * dtype.itemsize + (1 << 22), what="the student")
    stop_ids, pad_id = reader.encoder.stop_ids, reader.encoder.pad_id
    save_student(folder, student, reader.tokenizer, stop_ids=stop_ids, pad_id=pad_id, dtype=dtype)
    files = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
    record = record.model_copy(update={"files": files})
    write_record(record, folder / RECORD)
    return record


def calibration_rows(inputs: RunInputs) -> Sequence[EncodedRow]:
    """Return the training rows on which the teacher is measured: a seeded choice, in their order."""
    pruning, rows = _pruning(inputs), inputs.train.rows
    count = min(pruning.calibration_rows, len(rows))
    return [rows[place] for place in sorted(random.Random(pruning.seed).sample(range(len(rows)), count))]


def importance_of(inputs: RunInputs, teacher: PreTrainedModel) -> Importance:
    """Measure the parts of the teacher on the calibration rows; nothing, if the settings choose by nothing."""
    pruning, blocks = _pruning(inputs), model_shape(teacher).blocks
    if not pruning.measures:
        return Importance()
    reaches = {1, blocks - pruned_sizes(teacher.config, pruning).layers} - {0}
    widths = width_parts(teacher) if pruning.width else []
    rows, collator = calibration_rows(inputs), inputs.student.collator()
    with Progress("measuring the teacher's parts", total=len(rows), unit="rows") as progress:

        def batches() -> Iterator[TokenBatch]:
            for start in range(0, len(rows), _BATCH_SIZE):
                chosen = rows[start : start + _BATCH_SIZE]
                yield collator([IndexedRow(start + place, row) for place, row in enumerate(chosen)])
                progress.advance(len(chosen))

        return measure_importance(teacher, batches(), reaches=reaches, widths=widths)


def _pruning(inputs: RunInputs) -> PruningConfig:
    pruning = inputs.recipe.student.from_teacher
    if pruning is None:
        raise ConfigError("The student is not made from its teacher.", fix="add student: {from_teacher: …}")
    return pruning


def _rows_sha256(rows: Sequence[EncodedRow]) -> str:
    return hashlib.sha256(b"".join(row_digest(row.input_ids, row.answer_mask) for row in rows)).hexdigest()


def _identity(inputs: RunInputs) -> str:
    """Return the sha256 of all that decides what is kept of which model."""
    settings, pruning = inputs.recipe.student, _pruning(inputs)
    facts = {
        "pruning": settings_identity(pruning),
        "teacher": [weights_sha256(settings.path), settings.revision, settings.dtype],
        "rows": _rows_sha256(calibration_rows(inputs)) if pruning.measures else None,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _record(
    inputs: RunInputs, teacher: PreTrainedModel, student: PreTrainedModel, kept: Kept, importance: Importance
) -> PruningRecord:
    settings, rows = inputs.recipe.student, calibration_rows(inputs)
    calibration = CalibrationRows(
        source=inputs.train.counts.source, rows=len(rows), tokens=importance.tokens, sha256=_rows_sha256(rows)
    )
    shares = [
        float(importance.channels[layer][list(chosen)].sum() / importance.channels[layer].sum())
        for layer, chosen in zip(kept.layers, kept.channels, strict=False)
    ]
    return PruningRecord(
        identity=_identity(inputs),
        teacher=model_name(settings.path),
        teacher_sha256=weights_sha256(settings.path),
        settings=_pruning(inputs).model_dump(mode="json"),
        kept_layers=kept.layers,
        kept_channels=kept.channels,
        kept_key_value_heads=kept.groups,
        influence=tuple(importance.distances[1].tolist()) if importance.tokens else (),
        key_value_head_norms=tuple(tuple(each.tolist()) for each in importance.groups),
        channel_shares=tuple(shares),
        calibration=calibration if importance.tokens else None,
        before=_sizes(teacher),
        after=_sizes(student),
    )


def _sizes(model: PreTrainedModel) -> ModelSizes:
    shape = config_shape(model.config)
    return ModelSizes(
        parameters=model.num_parameters(),
        layers=shape.blocks,
        mlp_channels=getattr(model.config, "intermediate_size", None),
        heads=shape.heads,
        key_value_heads=shape.key_value_heads,
    )

"""Fidelity on the student's own generated answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedModel

from distillab.config.evaluation import EvaluationConfig
from distillab.data.encoding import EncodedRow
from distillab.data.reading import Reader
from distillab.evaluation.likelihood import SharedTeacher, score_rows
from distillab.evaluation.summary import NO_SHARED_TEACHER, fidelity
from distillab.processes import ONE_PROCESS, Processes
from distillab.records import Metric

CACHE_LACKS_IT = "the teacher is read from a cache, which does not contain the student's own answers"
_NOTHING_READABLE = "the teacher has no embedding for the first token of any answer"


def own_rows(
    prompts: Sequence[Sequence[int]], written: Sequence[Sequence[int]], *, teacher_ids: int
) -> list[EncodedRow]:
    """Return prompts with generated answers as rows whose answers are scored.

    An answer ends before the first token that the teacher cannot read; without any other it is no row.

    Args:
        written: ids of each answer, with the token that ended it.
        teacher_ids: how many ids the teacher has embeddings for.
    """
    rows = []
    for number, (prompt, ids) in enumerate(zip(prompts, written, strict=True)):
        known = next((place for place, token in enumerate(ids) if token >= teacher_ids), len(ids))
        if known and max(prompt) < teacher_ids:
            mask = np.arange(len(prompt) + known) >= len(prompt)
            row = np.array([*prompt, *ids[:known]], dtype=np.int32)
            rows.append(EncodedRow(str(number), row, mask, prompt_length=len(prompt)))
    return rows


def own_text_metrics(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    written: Sequence[Sequence[int]],
    settings: EvaluationConfig,
    *,
    reader: Reader,
    shared: SharedTeacher | None,
    unshared: str = NO_SHARED_TEACHER,
    processes: Processes = ONE_PROCESS,
) -> tuple[tuple[Metric, ...], tuple[dict[str, float], ...]]:
    """Return the student's fidelity on its own answers; without values where no teacher can read them.

    Where it wrote none there are no metrics.

    Returns:
        The metrics; of each answer own_kl, a sum, and own_tokens, of how many: 0 where the teacher cannot read it.

    Args:
        prompts, written: see `own_rows`.
        shared: the teacher, where it has the student's tokens.
        unshared: why there is none.
        processes: as of `score_rows`.
    """
    if not written:
        return (), ()
    if shared is None or not shared.reads_any_text:
        missing = unshared if shared is None else CACHE_LACKS_IT
        return fidelity(None, missing=missing, own_text=True, n=len(written)), ()
    rows = own_rows(prompts, written, teacher_ids=shared.teacher.identity.input_ids)
    if not rows:
        return fidelity(None, missing=_NOTHING_READABLE, own_text=True, n=len(written)), ()
    scores = score_rows(
        model,
        rows,
        collator=reader.collator(),
        batch_size=settings.batch_size,
        stop_ids=reader.encoder.stop_ids,
        shared=shared,
        processes=processes,
    )
    assert scores.kl is not None  # there is a shared teacher
    read = dict(zip(scores.keys, zip(scores.kl.tolist(), scores.tokens.tolist(), strict=True), strict=True))
    each = (read.get(str(number), (0.0, 0.0)) for number in range(len(written)))
    found = tuple({"own_kl": kl, "own_tokens": tokens} for kl, tokens in each)
    return fidelity(scores, missing=NO_SHARED_TEACHER, own_text=True), found

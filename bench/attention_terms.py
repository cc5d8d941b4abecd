"""What the attention terms add to the backbones of a training step. `python -m bench.attention_terms`

Both backbones forward and the student's backward, without the term and with it, in turn; the difference of the
medians is what is printed. No heads, no optimizer: they are the same with and without.
"""

from __future__ import annotations

import copy
import statistics
import time
from dataclasses import replace
from typing import Any

import torch

from bench.pair import answer_mask, student_of, teacher_of, token_ids
from bench.settings import SIZES, Size
from distillab.config.layer_terms import AttentionMapsConfig, AttentionRelationsConfig
from distillab.models.activations import Activations, record_activations
from distillab.models.attention import require_maps
from distillab.models.batch import TokenBatch
from distillab.models.structure import model_shape
from distillab.objectives.attention_maps import AttentionMaps
from distillab.objectives.attention_relations import AttentionRelations

WARMUP, ROUNDS = 2, 9
# the heads and their loss are no part of what is measured here, so the vocabulary need not be large
SIZE = replace(SIZES["small"], vocabulary=1000)
SETTINGS = (
    AttentionRelationsConfig(),
    AttentionRelationsConfig(heads=8),
    AttentionRelationsConfig(heads=4),
    AttentionRelationsConfig(heads=32),
    AttentionRelationsConfig(positions="all"),
    AttentionRelationsConfig(layers="uniform"),
    AttentionMapsConfig(),
    AttentionMapsConfig(heads="mean"),
)


def batch_of(size: Size) -> TokenBatch:
    """The benchmark's rows, half of every one supervised."""
    ids, answer = token_ids(size), answer_mask(size)
    return TokenBatch(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        position_ids=torch.arange(ids.shape[1]).expand_as(ids),
        labels=ids.masked_fill(~answer, -100),
        answer_mask=answer,
        rows=torch.arange(len(ids))[:, None].expand_as(ids),
    )


def cpu_ms(student: Any, teacher: Any, batch: TokenBatch, term: AttentionRelations | AttentionMaps | None) -> float:
    """CPU milliseconds of one step; no term: the backbones alone."""
    start = time.process_time()
    ours, theirs = Activations(), Activations()
    inputs = {"input_ids": batch["input_ids"], "use_cache": False}
    if term is None:
        with torch.no_grad():
            teacher.model(**inputs)
        loss = student.model(**inputs).last_hidden_state.square().mean()
    else:
        with torch.no_grad(), record_activations(teacher, term.teacher_activations) as theirs:
            teacher.model(**inputs)
        with record_activations(student, term.student_activations) as ours:
            loss = student.model(**inputs).last_hidden_state.square().mean()
        loss = loss + term.total(ours, theirs, batch) / term.count(batch)
    loss.backward()
    return (time.process_time() - start) * 1e3


def main() -> None:
    """One line a setting."""
    torch.set_num_threads(1)
    plain, batch = (student_of(SIZE), teacher_of(SIZE)), batch_of(SIZE)
    for settings in SETTINGS:
        shapes = {"student": model_shape(plain[0]), "teacher": model_shape(plain[1])}
        term: AttentionRelations | AttentionMaps
        if isinstance(settings, AttentionMapsConfig):
            term = AttentionMaps(settings, **shapes)
        else:
            term = AttentionRelations(settings, **shapes)
        student, teacher = copy.deepcopy(plain)
        require_maps(student, term.student_activations.maps)
        require_maps(teacher, term.teacher_activations.maps)
        rows = [(cpu_ms(*plain, batch, None), cpu_ms(student, teacher, batch, term)) for _ in range(WARMUP + ROUNDS)]
        without, with_term = (statistics.median(column) for column in zip(*rows[WARMUP:], strict=True))
        given = settings.model_dump(exclude_defaults=True)
        print(
            f"{settings.kind} {given or 'as it comes'}: {without:.0f} -> {with_term:.0f} CPU ms a step, "
            f"{with_term - without:+.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""Samples that can be arranged in any way, with hidden states that depend on sample and position alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from distillab.config.layer_terms import HiddenStatesConfig
from distillab.models.activations import Activations
from distillab.models.batch import TokenBatch
from distillab.models.structure import ModelShape
from distillab.objectives.hidden_states import HiddenStates
from tests.models.decoders import VOCABULARY

D, E = 6, 9
STUDENT, TEACHER = ModelShape(2, D, 2, 2, 3), ModelShape(4, E, 3, 3, 3)

# (prompt tokens, answer tokens) of each sample; one answer is too short for CKA, one sample has no answer
SAMPLES = [(3, 6), (2, 3), (4, 4), (5, 0), (1, 9)]


def sample_batch(samples: Sequence[Sequence[int]], *, side: str = "right", seed: int = 0) -> TokenBatch:
    """A batch whose sequences hold samples of `SAMPLES`, by their numbers; several numbers are packed."""
    sequences = []
    for numbers in samples:
        parts = []
        for number in numbers:
            prompt, answer = SAMPLES[number]
            length = prompt + answer
            ids = torch.randint(3, VOCABULARY, (length,), generator=torch.Generator().manual_seed(number + 100 * seed))
            mask = torch.arange(length) >= prompt
            parts.append((ids, torch.arange(length), mask, torch.full((length,), number)))
        sequences.append([torch.cat(tensors) for tensors in zip(*parts, strict=True)])
    longest = max(len(sequence[0]) for sequence in sequences)

    def padded(place: int, fill: int) -> Tensor:
        rows = []
        for sequence in sequences:
            padding = torch.full((longest - len(sequence[place]),), fill).to(sequence[place].dtype)
            rows.append(torch.cat([sequence[place], padding] if side == "right" else [padding, sequence[place]]))
        return torch.stack(rows)

    rows, ids, answer = padded(3, -1), padded(0, 0), padded(2, 0)
    return TokenBatch(
        input_ids=ids,
        attention_mask=(rows >= 0).long(),
        position_ids=padded(1, 0),
        labels=ids.masked_fill(~answer, -100),
        answer_mask=answer,
        rows=rows,
    )


def states_of(batch: TokenBatch, layers: Sequence[int], width: int, *, seed: int) -> Activations:
    """Random states that depend on sample and position alone, so that any arrangement of the samples has the same."""
    found = {}
    for layer in layers:
        states = torch.full((*batch["rows"].shape, width), math.nan)  # padding must never be read
        for b, t in (batch["rows"] >= 0).nonzero().tolist():
            row, place = int(batch["rows"][b, t]), int(batch["position_ids"][b, t])
            generator = torch.Generator().manual_seed(seed + 1000 * layer + 100 * row + place)
            # a shared part, so that sides are related, and a shift, so that centring matters
            shared = torch.randn(width, generator=torch.Generator().manual_seed(100 * row + place))
            states[b, t] = shared + 0.7 * torch.randn(width, generator=generator) + 2.0
        found[layer] = states
    return Activations(hidden=found)


def hidden_term(
    loss: str, *, student: ModelShape = STUDENT, teacher: ModelShape = TEACHER, **settings: Any
) -> HiddenStates:
    torch.manual_seed(7)
    return HiddenStates(HiddenStatesConfig(loss=loss, **settings), student=student, teacher=teacher)  # type: ignore[arg-type]


def both_sides(term: HiddenStates, batch: TokenBatch) -> tuple[Activations, Activations]:
    return (
        states_of(batch, sorted(term.student_activations.hidden), D, seed=1),
        states_of(batch, sorted(term.teacher_activations.hidden), E, seed=2),
    )

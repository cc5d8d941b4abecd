"""Samples of known lengths, laid out as a batch: padded on either side, or packed by hand."""

from __future__ import annotations

from typing import Literal

import torch

from distillab.config.layer_terms import Positions
from distillab.models.batch import TokenBatch

Layout = Literal["left", "right", "packed"]
Sample = tuple[int, int]  # length, length of its prompt

SAMPLES: list[Sample] = [(6, 3), (4, 1), (1, 1), (8, 6)]


def place(samples: list[Sample], layout: Layout) -> list[list[int]]:
    """For each sequence of the batch: which sample stands at each position, -1 for padding."""
    if layout == "packed":
        line = [number for number, (length, _) in enumerate(samples) for _ in range(length)]
        return [[*line, -1, -1]]
    longest = max(length for length, _ in samples) + 1
    rows = []
    for number, (length, _) in enumerate(samples):
        padding, tokens = [-1] * (longest - length), [number] * length
        rows.append([*padding, *tokens] if layout == "left" else [*tokens, *padding])
    return rows


def batch_of(samples: list[Sample], layout: Layout) -> TokenBatch:
    owners = torch.tensor(place(samples, layout))
    position = torch.zeros_like(owners)
    answer = torch.zeros_like(owners, dtype=torch.bool)
    for number, (length, prompt) in enumerate(samples):
        here = owners == number
        position[here] = torch.arange(length)
        answer[here] = torch.arange(length) >= prompt
    ids = torch.full_like(owners, 5)
    token = owners >= 0
    return TokenBatch(
        input_ids=ids * token,
        attention_mask=token.long(),
        position_ids=position,
        labels=torch.where(answer, ids, -100),
        answer_mask=answer,
        rows=owners,
    )


def chosen(sample: Sample, positions: Positions) -> range:
    length, prompt = sample
    return range(length) if positions == "all" else range(prompt - 1, length - 1)

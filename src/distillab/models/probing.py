"""Probe a model with short random rows: the rows, their logits, and the distance of two logits.

Shapes: B sequences, L positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from distillab.models.batch import TokenBatch
from distillab.models.inputs import model_inputs
from distillab.models.structure import bare_model

_UNSUPERVISED = -100


def random_rows(model: torch.nn.Module, lengths: Sequence[int]) -> list[Tensor]:
    """Return rows of these lengths with ids that the model has embeddings for; the same ones at every call."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(embedding_rows(model), (n,), generator=generator) for n in lengths]


def other_tokens(row: Tensor, model: torch.nn.Module) -> Tensor:
    """Return a row of the same length in which every token is another one."""
    return (row + 1) % embedding_rows(model)


def embedding_rows(model: torch.nn.Module) -> int:
    """Return the number of ids that the model has embeddings for."""
    return cast(Tensor, bare_model(model).get_input_embeddings().weight).shape[0]


def logits_of(model: torch.nn.Module, sequences: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return (B, L, V) float32 logits of sequences, each of one or more samples; padding on the right."""
    device = next(model.parameters()).device
    batch = _batch(sequences)
    return cast(Tensor, model(**model_inputs(batch, device, model=model)).logits).float()


def distance(left: Tensor, right: Tensor) -> float:
    """Return the root mean square of the difference, in units of the standard deviation of `left`."""
    return float((left - right).pow(2).mean().sqrt() / left.std().clamp(min=1e-12))


def coarsest(model: torch.nn.Module, device: torch.device) -> torch.dtype:
    """Return the least precise dtype that is used: of the weights, or of autocast."""
    types = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if torch.is_autocast_enabled(device.type):
        types.add(torch.get_autocast_dtype(device.type))
    return max(types, key=lambda dtype: torch.finfo(dtype).eps)


def _batch(sequences: Sequence[Sequence[Tensor]]) -> TokenBatch:
    """Return a batch (B, L), L the longest sequence: samples one after another, padding on the right, no labels."""
    longest = max(sum(len(sample) for sample in line) for line in sequences)
    shape = (len(sequences), longest)
    ids, mask, positions = (torch.zeros(shape, dtype=torch.int64) for _ in range(3))
    for place, line in enumerate(sequences):
        tokens = torch.cat(list(line))
        ids[place, : len(tokens)] = tokens
        mask[place, : len(tokens)] = 1
        positions[place, : len(tokens)] = torch.cat([torch.arange(len(sample)) for sample in line])
    return TokenBatch(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        labels=torch.full(shape, _UNSUPERVISED),
        answer_mask=torch.zeros(shape, dtype=torch.bool),
        rows=mask - 1,
    )

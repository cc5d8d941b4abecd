"""May samples be packed for this model? Asked of the model itself, not of a list of architectures.

Shapes: B sequences, L positions, V vocabulary.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from distillab.errors import ConfigError
from distillab.models.batch import TokenBatch
from distillab.models.inputs import model_inputs
from distillab.models.structure import bare_model

# Three samples: two in the first sequence, one with padding in the second; a leak over any border shows.
_LENGTHS = ((7, 9), (5,))
_LONGEST = 16
_UNSUPERVISED = -100

# Largest tolerated change of the logits, root mean square, in units of their standard deviation: when another
# sample's tokens change (same shapes, so the same arithmetic: exactly 0 but for mixtures of experts, whose rows are
# grouped anew), and against the sample alone (other shapes, so rounding differs). The smallest leak seen in tiny random
# models was 8e-4 (Jamba), the usual one is 0.1 and more. A wrong refusal costs time, an unseen leak the result.
_LIMITS = {torch.float32: (1e-5, 1e-3), torch.float64: (1e-9, 1e-6)}
_LIMITS_LOW_PRECISION = (5e-4, 5e-2)


@torch.no_grad()
def require_packable(model: torch.nn.Module, *, role: str) -> None:
    """Pack short random samples and see whether they are independent of each other.

    Three forward passes over 32 positions, and two over one sample, in eval mode. Call it under the autocast that
    training uses, before anything is wrapped for several processes.

    Args:
        model: on the device and with the attention implementation that it will run with.
        role: "student" or "teacher", for the message.
    Raises:
        ConfigError: a sample's logits move when another sample's tokens change, or are not those of the sample
            alone; or the model cannot be told where samples begin.
    """
    bare = bare_model(model)
    was_training = model.training
    model.eval()
    try:
        complaint = _complaint(model)
    finally:
        model.train(was_training)
    if complaint:
        raise ConfigError(
            f"Samples cannot be packed for the {role}: they would read each other.",
            facts=[
                f"model: {type(bare).__name__}, attention: {bare.config.get_text_config()._attn_implementation}",
                complaint,
            ],
            fix="set training.packing: false (training.group_by_length: true saves padding too), or use a model "
            "whose attention keeps packed samples apart",
        )


def _complaint(model: torch.nn.Module) -> str | None:
    """What is wrong, in one line; None if the samples are independent."""
    vocabulary = cast(Tensor, bare_model(model).get_input_embeddings().weight).shape[0]
    generator = torch.Generator().manual_seed(0)
    samples = [[torch.randint(vocabulary, (n,), generator=generator) for n in line] for line in _LENGTHS]
    # the first sample of the first sequence and the only one of the second: every token becomes another one
    changed = [[(line[0] + 1) % vocabulary, *line[1:]] for line in samples]
    packed = _logits(model, _batch(samples))
    perturbed = _logits(model, _batch(changed))
    other, padded = samples[0][1], samples[1][0]
    start, end = len(samples[0][0]), _LONGEST
    scale = float(packed[0, start:end].std().clamp(min=1e-12))
    moves, apart = _LIMITS.get(_coarsest(model, packed), _LIMITS_LOW_PRECISION)
    checks = [
        (
            "another sample's tokens changed, and these logits moved",
            packed[0, start:end],
            perturbed[0, start:end],
            moves,
        ),
        ("packed logits against those of the sample alone", packed[0, start:end], _alone(model, other), apart),
        ("beside padding against the sample alone", packed[1, : len(padded)], _alone(model, padded), apart),
    ]
    for what, left, right, limit in checks:
        distance = float((left - right).pow(2).mean().sqrt()) / scale
        if not distance <= limit:
            return f"{what}: by {distance:.2g} of their standard deviation (allowed: {limit:g})"
    return None


def _alone(model: torch.nn.Module, sample: Tensor) -> Tensor:
    return _logits(model, _batch([[sample]]))[0, : len(sample)]


def _logits(model: torch.nn.Module, batch: TokenBatch) -> Tensor:
    device = next(model.parameters()).device
    return cast(Tensor, model(**model_inputs(batch, device, model=model)).logits).float()


def _batch(samples: list[list[Tensor]]) -> TokenBatch:
    """(B, L) with L the longest sequence: samples one after another, padding on the right, nothing supervised."""
    longest = max(sum(len(sample) for sample in line) for line in samples)
    shape = (len(samples), longest)
    ids, mask, positions = (torch.zeros(shape, dtype=torch.int64) for _ in range(3))
    for place, line in enumerate(samples):
        tokens = torch.cat(line)
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


def _coarsest(model: torch.nn.Module, logits: Tensor) -> torch.dtype:
    """The least precise type that took part: of the weights, or of autocast."""
    device = logits.device.type
    types = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if torch.is_autocast_enabled(device):
        types.add(torch.get_autocast_dtype(device))
    return max(types, key=lambda dtype: torch.finfo(dtype).eps)

"""Check on the model itself, without a list of architectures, that packed samples do not read each other.

Shapes: B sequences, L positions, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distillab.errors import ConfigError
from distillab.models.probing import coarsest, distance, logits_of, other_tokens, random_rows
from distillab.models.structure import bare_model

# Three samples: two in the first sequence, one with padding in the second; a leak over any border shows.
_LENGTHS = (7, 9, 5)

# Largest tolerated change of the logits, root mean square, in units of their standard deviation: when another
# sample's tokens change (same shapes, so the same arithmetic: exactly 0 but for mixtures of experts, whose rows are
# regrouped), and against the sample alone (other shapes, so rounding differs). The smallest leak seen in tiny random
# models was 8e-4 (Jamba), the usual one is 0.1 and more. A wrong refusal costs time, a missed leak the result.
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
            alone; or the model takes no argument that states where samples begin.
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
    """Return what is wrong, in one line; None if the samples are independent."""
    first, other, padded = random_rows(model, _LENGTHS)
    packed = logits_of(model, [[first, other], [padded]])
    # the first sample of the first sequence and the only one of the second: every token becomes another one
    perturbed = logits_of(model, [[other_tokens(first, model), other], [other_tokens(padded, model)]])
    start, end = len(first), len(first) + len(other)
    moves, apart = _LIMITS.get(coarsest(model, packed.device), _LIMITS_LOW_PRECISION)
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
        moved = distance(left, right)
        if not moved <= limit:
            return f"{what}: by {moved:.2g} of their standard deviation (allowed: {limit:g})"
    return None


def _alone(model: torch.nn.Module, sample: Tensor) -> Tensor:
    return logits_of(model, [[sample]])[0]

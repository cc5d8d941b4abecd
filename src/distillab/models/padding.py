"""Check on the model itself whether it reads the padding before a row.

Recurrent models can ignore the attention mask (RWKV). Padding on the left then goes into their state, and an answer
depends on the other rows of its batch. In transformers 5.23 RWKV's cache is wrong for several rows even of one length.
"""

from __future__ import annotations

import torch

from distillab.errors import ConfigError
from distillab.models.batch import TokenBatch
from distillab.models.inputs import model_inputs
from distillab.models.probing import coarsest, distance, logits_of, random_rows
from distillab.models.structure import bare_model

_LENGTH = 4
_PADDING = 3
# of the standard deviation; attention that masks padding moves by rounding alone
_LIMITS = {torch.float32: 1e-3, torch.float64: 1e-6}
_LIMIT_LOW_PRECISION = 5e-2


@torch.no_grad()
def reads_left_padding(model: torch.nn.Module) -> bool:
    """Return whether the logits of a short random row change when padding is put before it.

    Two forward passes, in eval mode. Nothing is drawn from torch's global generator.
    """
    was_training = model.training
    model.eval()
    try:
        (row,) = random_rows(model, [_LENGTH])
        alone = logits_of(model, [[row]])[0]
        device = next(model.parameters()).device
        inputs = model_inputs(_padded(row), device, model=model)
        padded = model(**inputs).logits[0, _PADDING:].float()
    finally:
        model.train(was_training)
    return distance(alone, padded) > _LIMITS.get(coarsest(model, alone.device), _LIMIT_LOW_PRECISION)


def require_no_left_padding_read(model: torch.nn.Module, *, role: str) -> None:
    """Check that a model can be trained with padding on the left.

    Raises:
        ConfigError: it reads the padding.
    """
    if reads_left_padding(model):
        raise ConfigError(
            f"The {role} reads padding before a row, so a row's loss depends on the rows beside it.",
            facts=[f"model: {type(bare_model(model)).__name__}, which ignores the attention mask"],
            fix="set training.padding_side: right",
        )


def _padded(row: torch.Tensor) -> TokenBatch:
    """Return (1, padding + row), masked."""
    length = _PADDING + len(row)
    ids = torch.zeros(1, length, dtype=torch.int64)
    ids[0, _PADDING:] = row
    mask = torch.zeros_like(ids)
    mask[0, _PADDING:] = 1
    return TokenBatch(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
        labels=torch.full_like(ids, -100),
        answer_mask=torch.zeros_like(ids, dtype=torch.bool),
        rows=mask - 1,
    )

"""Check on the model itself, without a list of architectures, that it does not read later tokens.

`AutoModelForCausalLM` loads encoders too (BERT, RoBERTa, XLM, XLNet). One that attends in both
directions reads the token that it has to predict: its loss falls to 0, and it has learned nothing.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedConfig

from distillab.errors import ConfigError, TeacherError
from distillab.models.probing import coarsest, distance, logits_of, other_tokens, random_rows
from distillab.models.structure import bare_model

_LENGTH = 4

# Largest tolerated move of the earlier logits, in units of their standard deviation. It is exactly 0 for a causal
# model, but for mixtures of experts, whose tokens are regrouped, so that rounding differs. An encoder with weights
# fresh from initialisation, which attends to everything alike, moves by 0.01 and more.
_LIMITS = {torch.float32: 1e-4, torch.float64: 1e-6}
_LIMIT_LOW_PRECISION = 5e-3

# settings of config.json that make a decoder of an architecture that can be either
_SETTINGS = ("is_decoder", "causal")


@torch.no_grad()
def require_causal(model: torch.nn.Module, *, role: str, where: str | None = None) -> None:
    """Check that changing the second half of a short random row does not change the logits of the first half.

    Two forward passes over 16 positions, in eval mode. Nothing is drawn from torch's global generator.

    Args:
        model: with the device and attention implementation that it will run with.
        role: "student" or "teacher", for the message.
        where: its folder or hub id, for the message.
    Raises:
        TeacherError (role "teacher") or ConfigError: they move, so that a position reads what it has to predict.
    """
    was_training = model.training
    model.eval()
    try:
        moved, allowed = _moved(model)
    finally:
        model.train(was_training)
    if moved > allowed:
        error = TeacherError if role == "teacher" else ConfigError
        raise error(
            f"The {role} reads ahead: its prediction of a token depends on that token and on later ones.",
            where=where,
            facts=[
                f"model: {type(bare_model(model)).__name__}",
                f"later tokens changed, and earlier logits moved by {moved:.2g} of their standard deviation "
                f"(allowed: {allowed:g})",
            ],
            fix=_fix(bare_model(model).config),
        )


def _moved(model: torch.nn.Module) -> tuple[float, float]:
    """Return how much the earlier logits change, and how much they may change."""
    (row,) = random_rows(model, [_LENGTH])
    early, late = row[: _LENGTH // 2], row[_LENGTH // 2 :]
    first, second = (
        logits_of(model, [[torch.cat([early, rest])]])[0, : len(early)] for rest in (late, other_tokens(late, model))
    )
    allowed = _LIMITS.get(coarsest(model, first.device), _LIMIT_LOW_PRECISION)
    return distance(first, second), allowed


def _fix(config: PreTrainedConfig) -> str:
    known = [name for name in _SETTINGS if getattr(config, name, None) is False]
    setting = f'set "{known[0]}": true in its config.json, or ' if known else ""
    return f"{setting}use a model that was trained to predict the next token from those before it"

"""Count the floating-point operations of a forward pass from a configuration."""

from __future__ import annotations

from transformers import PreTrainedConfig


def forward_operations(config: PreTrainedConfig, parameters: int, *, tokens: float, scored: float) -> float:
    """Return 2 operations a parameter and token: the blocks at all tokens, the head at the scored ones.

    Input embeddings are read and not multiplied; the products of queries and keys are left out.

    Args:
        parameters: of the whole model.
    """
    text = config.get_text_config()
    table = int(text.vocab_size) * int(text.hidden_size)
    lookup = 0 if text.tie_word_embeddings else table
    return 2 * ((parameters - lookup - table) * tokens + table * scored)

"""Saves a student so that plain transformers generates with it what it was judged by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from distillab.files import new_folder
from distillab.models.generation import all_stop_ids


def save_student(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    stop_ids: Sequence[int],
    pad_id: int,
) -> None:
    """Write weights, tokenizer with its chat template, and a generation config of what the evaluation used.

    The generation config holds every id that ended an answer, the padding id and the begin token, and nothing that
    the checkpoint it came from set beside them: none of that was used when the student was judged.

    Args:
        folder: whole or not there; what has its name is replaced.
        stop_ids: ids that end an answer beside those of the model's own generation config, as in generation.
        pad_id: of the batches.
    """
    own = model.generation_config
    stops = all_stop_ids(model, stop_ids)
    model.generation_config = GenerationConfig(
        bos_token_id=None if own is None else own.bos_token_id,
        eos_token_id=stops if len(stops) > 1 else stops[0],
        pad_token_id=pad_id,
    )
    with new_folder(folder, replace=True) as made:
        try:
            model.save_pretrained(made)
        finally:
            model.generation_config = own
        tokenizer.save_pretrained(made)

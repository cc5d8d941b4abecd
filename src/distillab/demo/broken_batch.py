"""Save a batch of the broken collator, to be examined by `distillab doctor batch`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save

from distillab.config.run import RunRecipe
from distillab.data.collation import Collator, TokenDataset
from distillab.files import write_bytes
from distillab.runs.inputs import load_inputs


def save_batch(recipe: RunRecipe, collator: Callable[[int], Collator], path: Path) -> None:
    """Save the batch that the first rows of a run give: `input_ids`, `attention_mask`, `labels`, (B, L) each.

    The file does not name the failure.

    Args:
        recipe: of the run; its batch size is the number of rows.
        collator: given the padding id, makes the batch.
        path: a .safetensors file; its folder is made where it is missing.
    Raises:
        DataError: the recipe's rows cannot be read.
    """
    inputs = load_inputs(recipe)
    rows = TokenDataset(inputs.train)
    chosen = [rows[number] for number in range(min(recipe.training.batch_size, len(rows)))]
    batch = collator(inputs.student.encoder.pad_id)(chosen)
    tensors = {
        "input_ids": batch["input_ids"],
        "attention_mask": batch["attention_mask"],
        "labels": batch["labels"],
    }
    write_bytes(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}))

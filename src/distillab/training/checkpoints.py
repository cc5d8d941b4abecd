"""Finds the checkpoint that a killed run can go on from."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch

_MARGIN_BYTES = 1 << 20
_NAME = re.compile(r"checkpoint-(\d+)")


def last_whole_checkpoint(folder: Path) -> tuple[Path, int] | None:
    """The newest checkpoint that was written to its end, and its step; None where there is none.

    transformers writes `trainer_state.json` last, so a folder without a whole one was cut off by the kill.
    """
    found = []
    for path in folder.glob("checkpoint-*"):
        match = _NAME.fullmatch(path.name)
        if match and _is_whole(path / "trainer_state.json"):
            found.append((int(match[1]), path))
    if not found:
        return None
    step, path = max(found)
    return path, step


def checkpoint_bytes(model: torch.nn.Module) -> int:
    """What a checkpoint takes: the weights, AdamW's two moments of those that learn, and some small files."""
    weights = sum(p.numel() * p.element_size() for p in (*model.parameters(), *model.buffers()))
    learning = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return weights + 2 * learning + _MARGIN_BYTES


def _is_whole(state: Path) -> bool:
    try:
        json.loads(state.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True

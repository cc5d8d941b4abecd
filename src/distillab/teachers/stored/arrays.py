"""Convert stored numbers to tensors, and back."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def as_tensor(array: npt.NDArray[np.generic], device: torch.device | None = None) -> Tensor:
    """Return the same numbers, by default on the CPU; uint16 holds the bits of bfloat16, which numpy lacks."""
    if not array.flags.writeable:
        array = array.copy()  # torch would warn: a tensor cannot be read-only
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).to(device or "cpu")
    return torch.from_numpy(array).to(device or "cpu")


def as_array(tensor: Tensor) -> npt.NDArray[np.generic]:
    """Return the same numbers on the CPU; those of bfloat16 as their bits."""
    tensor = tensor.detach().contiguous().cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()

"""Devices that an estimate can be made for: what they have, as their makers state it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from distillab.errors import ConfigError, near_names

_ROWS, _ROUNDS = 1024, 4  # of the matrices that are multiplied on the CPU


@dataclass(frozen=True)
class Device:
    """One device.

    Attributes:
        memory_bytes: all of it.
        bfloat16, float32: floating-point operations a second of dense matrix products (float32 without TF32).
        bandwidth: bytes a second from its memory.
        source: where the figures come from.
    """

    name: str
    memory_bytes: float
    bfloat16: float
    float32: float
    bandwidth: float
    source: str

    @property
    def kind(self) -> torch.device:
        """As torch names it."""
        return torch.device("cpu" if self.name == "cpu" else "cuda")


_GB, _T = 1e9, 1e12
DEVICES = {
    device.name: device
    for device in (
        Device("h200", 141 * _GB, 989 * _T, 67 * _T, 4.8e12, "NVIDIA H200 (SXM) datasheet, half of its sparse figure"),
        Device(
            "h100-80g", 80 * _GB, 989 * _T, 67 * _T, 3.35e12, "NVIDIA H100 (SXM) datasheet, half of its sparse figure"
        ),
        Device("a100-80g", 80 * _GB, 312 * _T, 19.5 * _T, 2.039e12, "NVIDIA A100 (SXM) datasheet"),
        Device("a100-40g", 40 * _GB, 312 * _T, 19.5 * _T, 1.555e12, "NVIDIA A100 (SXM) datasheet"),
        Device("l40s", 48 * _GB, 362 * _T, 91.6 * _T, 0.864e12, "NVIDIA L40S datasheet"),
        Device("l4", 24 * _GB, 121 * _T, 30.3 * _T, 0.3e12, "NVIDIA L4 datasheet, half of its sparse figure"),
        Device("rtx-4090", 24 * _GB, 165.2 * _T, 82.6 * _T, 1.008e12, "NVIDIA Ada architecture whitepaper"),
        Device("rtx-3090", 24 * _GB, 71 * _T, 35.6 * _T, 0.936e12, "NVIDIA Ampere GA102 architecture whitepaper"),
    )
}


def device_named(name: str, *, memory_bytes: int) -> Device:
    """Return a device; `cpu` is this machine, with matrix products measured now.

    Args:
        memory_bytes: of this machine.
    Raises:
        ConfigError: no such device.
    """
    if name == "cpu":
        return _cpu(memory_bytes)
    if name not in DEVICES:
        known = ["cpu", *DEVICES]
        raise ConfigError(
            f'There is no device "{name}"; {near_names(name, known)}',
            where="--device",
            fix=f"one of {', '.join(known)}",
        )
    return DEVICES[name]


def _cpu(memory_bytes: int) -> Device:
    by_dtype = {dtype: _products(dtype) for dtype in (torch.float32, torch.bfloat16)}
    block = torch.ones(64 << 20, dtype=torch.uint8)
    other = torch.zeros_like(block)
    bandwidth = 2 * block.numel() / _fastest(lambda: other.copy_(block))  # read and written
    return Device(
        "cpu",
        memory_bytes,
        by_dtype[torch.bfloat16],
        by_dtype[torch.float32],
        bandwidth,
        f"measured on this machine with {torch.get_num_threads()} threads",
    )


def _products(dtype: torch.dtype) -> float:
    matrix = torch.ones(_ROWS, _ROWS, dtype=dtype)
    return 2 * _ROWS**3 / _fastest(lambda: matrix @ matrix)


def _fastest(call: Callable[[], object]) -> float:
    """Return the seconds of the fastest of some calls."""
    seconds = []
    for _ in range(_ROUNDS):
        since = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - since)
    return min(seconds)

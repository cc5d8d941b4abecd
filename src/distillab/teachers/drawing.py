"""Sample from a teacher's distribution. N positions, V vocabulary."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


@torch.no_grad()
def draw(logp_NV: Tensor, samples: int, *, points: Tensor | None = None) -> Tensor:
    """Return (N, samples) ids, drawn independently and with replacement from each row's distribution.

    By inversion of the cumulative sum in float64. `torch.multinomial` sums in float32 on a CPU: of a million tokens of
    probability 10⁻⁸ behind one of 0.99 it draws none, although one draw in a hundred should be among them.

    Args:
        logp_NV: (N, V) natural-log probabilities; a token of −inf is never drawn. Draws from a row with NaN
            have no meaning.
        samples: draws a row.
        points: (N, samples) float64 in [0, 1), the uniform numbers to draw by; default: from torch's own random state
            of the device.
    """
    # converted first: a sum with conversion is eight times slower on a CPU
    reached = logp_NV.exp().double().cumsum(dim=-1)
    # scaled by the row's actual sum, so that they are below it
    if points is None:
        points = torch.rand(logp_NV.shape[0], samples, dtype=torch.float64, device=logp_NV.device)
    points = points.to(logp_NV.device) * reached[:, -1:]
    # in a row of NaN nothing is found, and V is no id
    return torch.searchsorted(reached, points, right=True).clamp_(max=logp_NV.shape[1] - 1)


def row_points(digest: bytes, positions: int, samples: int, *, seed: int) -> Tensor:
    """Return (positions, samples) float64 in [0, 1), the uniform numbers by which a row's tokens are drawn for a cache.

    They depend on the row and the seed alone, not on the other rows or the device.

    Args:
        digest: of the row (`cache.rows.row_digest`).
        positions: scored positions of the row.
        samples: draws a position.
        seed: of the cache.
    """
    key = hashlib.blake2b(digest + str(seed).encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key, "little"))
    return torch.rand(positions, samples, dtype=torch.float64, generator=generator)

"""What is asked of a GPU besides time: use of its arithmetic, memory, and the ten most expensive operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from bench.measure import percentile
from bench.settings import OFFLINE, WITHOUT_TEACHER, Run, Side, Size

# Dense bfloat16 FLOP/s of the vendors' data sheets, without sparsity, by a word of the device's name.
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "4090": 165e12}


def step_flops(size: Size, *, with_teacher: bool) -> float:
    """Floating-point operations that an optimizer step needs; what is recomputed or padded does not count.

        student: 3 × (tokens × (2 P_s + A_s) + supervised × 2 V D_s)
        teacher:      tokens × (2 P_t + A_t) + supervised × 2 V D_t

    P counts the weights of the blocks, without embeddings; A = 2 · length · D a block is attention (QKᵀ and its
    product with V, half of it masked; length is that of one sample); a backward pass costs two forwards. Embeddings
    cost nothing. Utilisation is this over (seconds × peak of the device).
    Source: Chowdhery et al. 2022 (arXiv:2204.02311), appendix B; with the head at supervised positions only.
    """
    total = 3.0 * _forward_flops(size.student, size)
    return total + _forward_flops(size.teacher, size) if with_teacher else total


def figures(run: Run, wall_s: Sequence[float]) -> dict[str, Any]:
    """Tokens a second, utilisation, peak memory of the device.

    Where the student writes answers, utilisation counts the operations of learning from them, and the time of both.
    """
    on_gpu = run.device == "cuda"
    name = torch.cuda.get_device_name(0) if on_gpu else run.device
    seconds = percentile(wall_s, 0.5)
    peak = next((flops for word, flops in PEAK_FLOPS.items() if word in name), None)
    flops = step_flops(run.shape, with_teacher=run.case not in (*WITHOUT_TEACHER, *OFFLINE))
    return {
        "gpu": name,
        "tokens_per_s": run.shape.tokens / seconds,
        "utilisation": None if peak is None else flops / seconds / peak,
        "gpu_peak_bytes": torch.cuda.max_memory_allocated() if on_gpu else 0,
    }


def profiler(device: str) -> profile:
    """Sees one step."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    return profile(activities=activities, acc_events=True)


def top_ten(seen: profile, device: str) -> list[dict[str, Any]]:
    """The ten operations with the largest time of their own, largest first."""
    field = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    rows = sorted(seen.key_averages(), key=lambda row: float(getattr(row, field)), reverse=True)
    whole = sum(float(getattr(row, field)) for row in rows) or 1.0
    return [
        {
            "name": row.key[:80],
            "calls": int(row.count),
            "ms": float(getattr(row, field)) / 1e3,
            "share": float(getattr(row, field)) / whole,
        }
        for row in rows[:10]
    ]


def _forward_flops(side: Side, size: Size) -> float:
    key_value_width = side.width // side.heads * (side.key_value_heads or side.heads)
    block = 2 * side.width**2 + 2 * side.width * key_value_width + 3 * side.width * side.inner
    attention = 2 * size.row_length * side.width
    head = 2 * size.vocabulary * side.width
    return size.tokens * side.blocks * (2.0 * block + attention) + size.tokens // 2 * head

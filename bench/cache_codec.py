"""Rows to bytes and back, without a disk: tokens a second on one core."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from bench.cache_rows import POSITIONS, sampled_layout, sections, top_k_layout
from bench.measure import percentile
from distillab.cache.kinds import Layout, decode, encode
from distillab.cache.layout import Section

_ROWS = 32  # as many as a training batch asks for at once
LAYOUTS: dict[str, Layout] = {
    "top_k 16": top_k_layout(16),
    "top_k 64": top_k_layout(64),
    "sampled 12": sampled_layout(12),
    "sampled 50": sampled_layout(50),
}


def codec(rounds: int) -> list[dict[str, Any]]:
    """One entry a layout and round: bytes a token, and tokens a CPU second of encoding and decoding."""
    work = {name: sections(layout, _ROWS) for name, layout in LAYOUTS.items()}
    tokens = _ROWS * POSITIONS
    found = []
    for number in range(1, rounds + 1):
        for name, layout in LAYOUTS.items():
            records = _encoded(work[name], layout)
            found.append(
                {
                    "round": number,
                    "case": name,
                    "bytes": sum(map(len, records)) / tokens,
                    "encode": tokens / cpu_s(partial(_encoded, work[name], layout)),
                    "decode": tokens / cpu_s(partial(decode, records, [POSITIONS] * _ROWS, layout)),
                }
            )
    return found


def _encoded(rows: Sequence[Section], layout: Layout) -> list[bytes]:
    return [encode(section, layout) for section in rows]


def cpu_s(call: Callable[[], object], *, least_s: float = 0.3) -> float:
    """Median CPU seconds of a call, repeated until `least_s` seconds were spent; the first call is not counted."""
    call()
    taken: list[float] = []
    while sum(taken) < least_s or len(taken) < 3:
        start = time.process_time()
        call()
        taken.append(time.process_time() - start)
    return percentile(taken, 0.5)

"""The figures of the quality bench as markdown."""

from __future__ import annotations

import math
from statistics import mean, stdev
from typing import Any

from bench.cache_signals import LIVE, ways
from bench.table import markdown


def tables(pair: str, found: dict[str, Any]) -> str:
    """Signals, then students; a part that was not measured is left out."""
    parts = [f"### {pair}"]
    if found["signals"]:
        parts.append(_signals(found["signals"]))
    if found["students"]:
        parts.append(_students(found["students"]))
    return "\n\n".join(parts) + "\n"


def _signals(signals: dict[str, dict[str, Any]]) -> str:
    sizes = [f"{entry['tokens']:,}" for entry in signals[LIVE]["gradient"]]
    head = ["kept", "bytes per token", "with tokens and index", "ids per position", "of the teacher's mass"]
    head += ["KL(true‖recovered)", "KL(recovered‖true)"]
    head += [f"angle, {size} tokens" for size in sizes] + ["norm ratio"]
    rows = []
    for way in ways():
        entry = signals.get(way.name)
        if entry is None or way.name == LIVE:
            continue
        cells = [""] * 6
        if "bytes" in entry:
            stored, back = entry["bytes"], entry["recovered"]
            cells = [
                f"{stored['kind'] / stored['tokens']:.1f}" + _head(stored["head"]),
                f"{(stored['kind'] + stored['rest']) / stored['tokens']:.1f}",
                f"{back['distinct']:.1f}",
                f"{back['mass']:.4f}",
                _nats(back["from_true"]),
                _nats(back["to_true"]),
            ]
        angles = [f"{gradient['angle']:.2f}°" for gradient in entry["gradient"]]
        rows.append([way.name, *cells, *angles, f"{entry['gradient'][-1]['norm']:.3f}"])
    return markdown(head, rows)


def _students(students: list[dict[str, Any]]) -> str:
    head = ["learns from", "seeds", "held-out nats", "over live", "KL from the teacher", "accuracy", "confidence"]
    head += ["confidence − accuracy", "ECE"]
    baseline = {run["seed"]: run["nats"] for run in students if run["way"] == LIVE}
    rows = []
    for way in ways():
        runs = [run for run in students if run["way"] == way.name]
        if not runs:
            continue
        over = [run["nats"] - baseline[run["seed"]] for run in runs if run["seed"] in baseline]
        rows.append(
            [
                way.name,
                str(len(runs)),
                _spread([run["nats"] for run in runs]),
                "" if way.name == LIVE or not over else _spread(over, sign="+"),
                _spread([run["kl"] for run in runs]),
                _spread([run["accuracy"] for run in runs]),
                _spread([run["confidence"] for run in runs]),
                _spread([run["confidence"] - run["accuracy"] for run in runs], sign="+"),
                _spread([run["expected_error"] for run in runs]),
            ]
        )
    return markdown(head, rows)


def _spread(values: list[float], sign: str = "") -> str:
    """Mean ± standard deviation over seeds."""
    text = f"{mean(values):{sign}.3f}"
    return text if len(values) == 1 else f"{text} ± {stdev(values):.3f}"


def _head(size: int) -> str:
    """What is stored once, whatever the number of rows."""
    return f" and a head of {size / 1e6:.1f} MB" if size else ""


def _nats(value: float) -> str:
    if math.isinf(value):
        return "∞"
    if abs(value) < 1e-8:  # below what float32 adds up to
        return "0"
    return f"{value:.3f}" if value >= 0.01 else f"{value:.1e}"

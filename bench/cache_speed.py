"""How fast the cache is. `python -m bench.cache_speed [codec reads opening writes study]`

    python -m bench.cache_speed                            all but the study
    python -m bench.cache_speed study --demo FOLDER        needs a finished `distillab demo --output FOLDER`
    python -m bench run --block cache                      the training step from a cache (bench/cache_steps.py)

One thread. Rounds measure every case once, one beside the other; the median over rounds is printed, CPU seconds and
ratios beside the wall, because a shared machine's wall clock says little.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.cache_codec import codec
from bench.cache_reads import opening, reads
from bench.cache_study import study
from bench.cache_writes import writes
from bench.commands import OUTPUT
from bench.machine import commit, machine, versions
from bench.measure import percentile
from bench.table import about, markdown
from distillab.errors import near_names

PARTS = ("codec", "reads", "opening", "writes", "study")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the parts, write a JSON line each entry, print a table each."""
    options = _parser().parse_args(arguments)
    unknown = sorted(set(options.parts) - set(PARTS))
    if unknown:
        print(f"No such part: {', '.join(unknown)}; {near_names(unknown[0], PARTS)}", file=sys.stderr)
        return 2
    if "study" in options.parts and options.demo is None:
        print("The study needs --demo FOLDER: what `distillab demo --output FOLDER` has left there.", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    measure: dict[str, Callable[[int], list[dict[str, Any]]]] = {
        "codec": codec,
        "reads": reads,
        "opening": opening,
        "writes": partial(writes, materials=options.materials),
        "study": partial(study, folder=options.demo, steps=options.steps),
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with options.output.open("w", encoding="utf-8") as lines:
        for part in options.parts:
            facts = {"machine": machine(), "versions": versions(), "commit": commit(), "peak_reset": True}
            entries = measure[part](options.rounds)
            lines.writelines(json.dumps({"part": part, **facts, **entry}) + "\n" for entry in entries)
            lines.flush()
            print(f"{about([facts])}\n\n### {part}\n\n{table(entries)}\n", flush=True)
    print(f"Records: {options.output}")
    return 0


def table(entries: Sequence[dict[str, Any]]) -> str:
    """A row a case; of the rounds' numbers the median."""
    names = [name for name in entries[0] if name not in ("round", "case")]
    rows = []
    for case in dict.fromkeys(entry["case"] for entry in entries):
        own = [entry for entry in entries if entry["case"] == case]
        rows.append([case, *(_shown(percentile([float(entry[name]) for entry in own], 0.5)) for name in names)])
    return markdown(["case", *(name.replace("_", " ") for name in names)], rows)


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.cache_speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", default=PARTS[:-1], metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--demo", type=Path, metavar="FOLDER", help="of a finished `distillab demo`")
    parser.add_argument("--steps", type=int, default=150, help="of every run of the study")
    materials = Path(os.environ.get("DISTILLAB_MATERIALS", "../shared/data"))
    parser.add_argument("--materials", type=Path, default=materials, metavar="FOLDER")
    parser.add_argument("--output", type=Path, default=OUTPUT / "cache-speed.jsonl")
    return parser


if __name__ == "__main__":
    sys.exit(main())

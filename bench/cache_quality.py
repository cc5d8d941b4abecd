"""How much of the teacher each kind of cache keeps, and what a student makes of it. `python -m bench.cache_quality`

    python -m bench.cache_quality --pair demo --demo FOLDER    needs a finished `distillab demo --output FOLDER`
    python -m bench.cache_quality --pair real                  needs the materials (DISTILLAB_MATERIALS)
    python -m bench.cache_quality --pair wide --no-students    bytes and gradients at 32,000 ids

Everything is read from the stored bytes. What is finished is not done again: a second call goes on, and prints the
tables of what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.cache_folders import RecordedPair
from bench.cache_pairs import Pair, demo, real, wide
from bench.cache_quality_table import tables
from bench.cache_signals import LIVE, angle_degrees, gradients, recovered, ways
from bench.cache_students import judge, train
from bench.commands import OUTPUT
from distillab.study.workers import run_jobs

# rows over which stored and live distributions are compared
_COMPARED_ROWS = 60
# of the student whose gradients are looked at, and of the order in which its rows are read
_GRADIENT_SEED = 100


def main(arguments: Sequence[str] | None = None) -> int:
    """Record, measure, train, print."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    for name in options.pair:
        folder = options.output / name
        folder.mkdir(parents=True, exist_ok=True)
        pair = pair_of(name, options.demo, options.materials, folder, options.steps)
        RecordedPair(pair, folder / "caches").record()
        jobs = [] if (folder / "signals.json").exists() else [partial(signals_job, pair, folder)]
        if not options.no_students:
            wanted = [(name, seed) for seed in options.seeds for name in options.only]
            jobs += [partial(student_job, pair, folder, *run) for run in wanted if not _result(folder, *run).exists()]
        run_jobs(jobs, workers=options.workers)
        print(tables(pair.name, read(folder)), flush=True)
    return 0


def pair_of(name: str, demo_folder: Path | None, materials: Path, scratch: Path, steps: int | None) -> Pair:
    """The pair of that name; `steps` replaces its budget."""
    budget = {} if steps is None else {"steps": steps}
    if name == "demo":
        if demo_folder is None:
            sys.exit("The demo pair needs --demo FOLDER: what `distillab demo --output FOLDER` has left there.")
        return demo(demo_folder, **budget)
    return real(materials, **budget) if name == "real" else wide(materials, scratch, **budget)


def signals_job(pair: Pair, folder: Path) -> None:
    """Bytes, recovered distributions and gradients of every way -> signals.json."""
    torch.set_num_threads(1)
    live, recorded = pair.load_teacher(), RecordedPair(pair, folder / "caches")
    ways_by_name = {way.name: way for way in ways()}
    student = train(pair, ways_by_name[LIVE].term, live, seed=_GRADIENT_SEED, steps=pair.partly)
    rows = list(pair.train.rows)
    random.Random(_GRADIENT_SEED).shuffle(rows)
    sums = partial(gradients, student, rows=rows, collator=pair.collator, width=pair.width, batches=pair.batches)
    true = sums(teacher=live, term=ways_by_name[LIVE].term)
    found: dict[str, dict[str, Any]] = {}
    for way in ways_by_name.values():
        entry: dict[str, Any] = {}
        teacher = recorded.teacher(way) if way.kind is not None else live
        entry["gradient"] = [
            {"tokens": tokens, "angle": angle_degrees(own, full), "norm": float(own.norm() / full.norm())}
            for (tokens, own), (_, full) in zip(sums(teacher=teacher, term=way.term), true, strict=True)
        ]
        if way.kind is not None:
            entry["bytes"] = asdict(recorded.size(way))
            entry["recovered"] = asdict(
                recovered(live, teacher, way, rows[:_COMPARED_ROWS], collator=pair.collator, width=pair.width)
            )
        found[way.name] = entry
    _write(folder / "signals.json", found)


def student_job(pair: Pair, folder: Path, name: str, seed: int) -> None:
    """One student, one way, one seed -> a file of its own."""
    torch.set_num_threads(1)
    way = next(way for way in ways() if way.name == name)
    live = pair.load_teacher()
    if way.kind is None:
        teacher = live if name == LIVE else None
    else:
        teacher = RecordedPair(pair, folder / "caches").teacher(way)
    student = train(pair, way.term, teacher, seed=seed, steps=pair.training.steps)
    _write(_result(folder, name, seed), {"way": name, "seed": seed, **judge(pair, student, live)})


def read(folder: Path) -> dict[str, Any]:
    """What is there: signals (way -> figures) and students (one entry a run)."""
    path = folder / "signals.json"
    return {
        "signals": json.loads(path.read_text(encoding="utf-8")) if path.exists() else {},
        "students": [json.loads(p.read_text(encoding="utf-8")) for p in sorted(folder.glob("students/*.json"))],
    }


def _result(folder: Path, name: str, seed: int) -> Path:
    return folder / "students" / f"{name.replace(', ', '-').replace(' ', '-')}-seed{seed}.json"


def _write(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.cache_quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pair", nargs="+", choices=("demo", "real", "wide"), default=["real"])
    parser.add_argument("--demo", type=Path, metavar="FOLDER", help="of a finished `distillab demo`")
    parser.add_argument(
        "--materials",
        type=Path,
        default=Path(os.environ.get("DISTILLAB_MATERIALS", "../shared/data")),
        metavar="FOLDER",
    )
    names = [way.name for way in ways()]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="WAY", help="; ".join(names))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="of every student, instead of the pair's budget")
    parser.add_argument("--no-students", action="store_true", help="bytes, distributions and gradients alone")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=OUTPUT / "cache-quality")
    return parser


if __name__ == "__main__":
    sys.exit(main())

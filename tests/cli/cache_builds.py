"""Run as a process of its own by `test_cache_kill`: forks builders of a cache and kills them.

A fork has what takes seconds to import already; for the rest it is a process as any other, with its own files, threads
and death. The plan of the recipe is made once; every builder loads the teacher and writes by itself.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

from distillab.config import RunRecipe, load_recipe
from distillab.study.cache_build import CacheBuild, cache_builds, run_build


def start(whole: CacheBuild, folder: Path, *, worker: int = 0, workers: int = 1) -> int:
    """The id of a process that builds the plan's cache in another folder."""
    moved = replace(whole, location=folder, jobs=tuple(replace(job, location=folder) for job in whole.jobs))
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        run_build(moved, worker=worker, workers=workers)
        code = 0
    finally:
        if code:
            traceback.print_exc()
        os._exit(code)  # a fork must not go on with what its parent does


def finish(child: int) -> None:
    _, status = os.waitpid(child, 0)
    assert status == 0, f"a builder ended with {status}"


def killed(child: int, folder: Path, *, shards: int, delay_s: float) -> bool:
    """Kill -9 so long after it has finished so many shards, those among them that an earlier builder finished."""
    while not folder.exists() or finished_shards(folder) < shards:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.0005)
    time.sleep(delay_s)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def finished_shards(folder: Path) -> int:
    """Count the lines of all journals below a location."""
    try:
        return sum(file.read_bytes().count(b"\n") for file in folder.rglob("journals/*.jsonl"))
    except FileNotFoundError:  # a builder renamed a temporary folder in between; the caller counts again
        return 0


def main(recipe: Path, folder: Path, chains: int, kills: int) -> None:
    (whole,) = cache_builds(load_recipe(RunRecipe, recipe))
    since = time.perf_counter()
    finish(start(whole, folder / "whole"))
    shards = finished_shards(folder / "whole")
    shard_s = (time.perf_counter() - since) / shards
    chance = random.Random(4)
    seen = []
    for chain in range(chains):
        there = folder / f"killed{chain}"
        for kill in range(kills):
            # a random instant in each stretch of the build's life, so that no part of it is left out
            instant = shards * (kill * chains + chain + chance.random()) / (kills * chains)
            child = start(whole, there)
            hit = killed(child, there, shards=int(instant), delay_s=(instant % 1) * shard_s)
            seen.append({"killed": hit, "finished": finished_shards(there)})
        finish(start(whole, there))
    children = [start(whole, folder / "two", worker=worker, workers=2) for worker in (0, 1)]
    for child in children:
        finish(child)
    print(json.dumps({"seen": seen}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))

"""The command line of the bench of planted faults."""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from transformers.utils import logging

from bench.doctor import (
    cases_distillab,
    cases_good_batches,
    cases_pair,
    cases_rollouts,
    cases_trl,
)
from bench.doctor.case import Case, Place
from bench.doctor.drawn import by_kind, draw_cases, reached
from bench.doctor.score import can_run, line, materials, passed, run_cases, summary

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / "bench" / ".venv-peers" / "bin" / "python"
EVERY: tuple[Sequence[Case], ...] = (
    cases_good_batches.CASES,
    cases_distillab.CASES,
    cases_pair.CASES,
    cases_rollouts.CASES,
    cases_trl.CASES,
)
# Those that need no other environment and train nothing.
QUICK: tuple[Sequence[Case], ...] = tuple(
    [case for case in part if case.audit in ("batch", "loss") and case.needs != "trl"] for part in EVERY
)


def main(arguments: list[str]) -> int:
    """0: the targets are reached; 1: they are not; 2: something that was asked for is not there."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.doctor", description="Plants faults, and counts what the doctor finds."
    )
    parser.add_argument("--trl", type=Path, help="what trl_runs has written before; otherwise the trainers are run now")
    parser.add_argument("--without-trl", action="store_true", help="leave the trainers of TRL out")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--quick", action="store_true", help="batches and losses alone, without TRL's trainers")
    which.add_argument("--drawn", type=int, metavar="SEED", help="faults and good set-ups that a seed draws")
    parser.add_argument("--only", help="cases whose name holds this")
    given = parser.parse_args(arguments)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    folder = materials()
    cases = [case for part in (QUICK if given.quick else EVERY) for case in part]
    if given.drawn is not None:
        cases = draw_cases(given.drawn)
    cases = [case for case in cases if given.only is None or given.only in case.name]
    needs = {case.needs for case in cases}
    if folder is None and needs & {"materials", "trl"}:
        print("There are no materials: DISTILLAB_MATERIALS names their folder.")
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        trl = given.trl
        if trl is None and "trl" in needs and not given.without_trl:
            if not PEERS.exists():
                print("The trainers of TRL need their own environment: make bench-doctor, or say --without-trl")
                return 2
            trl = Path(scratch) / "trl"
            _run_trainers(trl, folder or trl)
        place = Place(folder, Path(scratch), trl)
        left_out = [case.name for case in cases if not can_run(case, place)]
        judged = run_cases(cases, place, tell=lambda one: print(line(one), flush=True))
    if not judged:
        print("No case has such a name.")
        return 2
    print(f"\n{summary(judged)}" if given.drawn is None else f"\n{by_kind(judged)}")
    if left_out:
        print(f"\nNot run: {len(left_out)} cases ({', '.join(left_out[:4])}, …)")
    return 0 if (passed(judged) if given.drawn is None else reached(judged)) else 1


def _run_trainers(out: Path, folder: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
        "HF_HUB_OFFLINE": "1",
        # half of the time would go to fresh pages for logits of 50,000 tokens
        "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
    }
    command = [str(PEERS), "-m", "bench.doctor.trl_runs", str(out), str(folder)]
    subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)

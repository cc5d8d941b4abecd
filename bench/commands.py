"""The commands of `python -m bench`, and the loop that measures blocks round by round."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.machine import ROOT
from bench.processes import Failed, measure_apart
from bench.settings import ALLOCATORS, CASES, GPU, GPU_TINY, PEERS, SIZES, SUITE, Block, Run
from distillab.files import read_json_lines

OUTPUT = ROOT / "bench" / "output"


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0 all was measured, 1 something failed, 2 wrong usage (argparse)."""
    options = _parser().parse_args(arguments)
    if options.command == "worker":
        from bench.worker import main as work

        work(options.run)
        return 0
    if options.command == "table":
        print(_table(options.file))
        return 0
    if options.command == "case":
        run = Run("", options.size, options.threads, options.malloc, options.device, options.warmup, options.steps)
        runs = tuple(replace(run, case=case, profile=options.profile) for case in options.cases)
        return measure([Block("Chosen cases", runs, options.rounds)], options.output or OUTPUT / "case.jsonl")
    if options.command == "peers":
        from bench.peers import require_equal_loss

        try:
            print(require_equal_loss(), flush=True)
        except Failed as error:
            print(error, file=sys.stderr)
            return 1
    suite = {"run": SUITE, "peers": PEERS, "gpu": GPU_TINY if options.tiny else GPU}[options.command]
    return measure(_chosen(suite, options), options.output or OUTPUT / f"{options.command}.jsonl")


def measure(blocks: Sequence[Block], output: Path) -> int:
    """Measure all, write a JSON line each, print the tables; 1 where a case failed, else 0.

    Within a round every run of the block comes once, so that a busy minute hits all of them.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    failures = []
    began = time.monotonic()
    with output.open("w", encoding="utf-8") as lines:
        for block in blocks:
            for number in range(1, block.rounds + 1):
                for run in block.runs:
                    start = time.monotonic()
                    try:
                        record = measure_apart(run)
                    except Failed as error:
                        failures.append(str(error))
                        print(error, file=sys.stderr, flush=True)
                        continue
                    lines.write(json.dumps({"block": block.title, "round": number, **record}) + "\n")
                    lines.flush()
                    _say(f"{block.title}: round {number}, {run.case}: {time.monotonic() - start:.0f} s")
    _say(f"{time.monotonic() - began:.0f} s in all")
    print(_table(output))
    print(f"Records: {output}")
    if failures:
        print(f"{len(failures)} measurements failed.", file=sys.stderr)
    return 1 if failures else 0


def _table(path: Path) -> str:
    from bench.table import report

    records = read_json_lines(path)
    return report(records) if records else "Nothing was measured."


def _chosen(suite: Sequence[Block], options: argparse.Namespace) -> list[Block]:
    blocks = []
    for block in suite:
        runs = tuple(run for run in block.runs if not options.only or run.case in options.only)
        if runs and options.block.lower() in block.title.lower():
            blocks.append(replace(block, runs=runs, rounds=options.rounds or block.rounds))
    return blocks


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("run", "everything about our own steps (make bench)"),
        ("peers", "the same step through TRL (make bench-peers)"),
        ("gpu", "the large pair on a GPU"),
    ):
        suite = commands.add_parser(name, help=text)
        suite.add_argument("--block", default="", metavar="WORD", help="only blocks whose title holds it")
        suite.add_argument("--only", nargs="+", choices=sorted(CASES), metavar="CASE", help="only these cases")
        suite.add_argument("--rounds", type=_positive, help="instead of the block's own number")
        suite.add_argument("--output", type=Path, help="file of JSON lines, overwritten")
        suite.set_defaults(tiny=False)
    suite.add_argument("--tiny", action="store_true", help="the same cases at a tiny size on the CPU: that they run")
    case = commands.add_parser("case", help="single cases, each beside the others: " + ", ".join(CASES))
    case.add_argument("cases", nargs="+", choices=sorted(CASES), metavar="CASE")
    default = Run("")
    case.add_argument("--size", choices=sorted(SIZES), default=default.size)
    case.add_argument("--threads", type=_positive, default=default.threads)
    case.add_argument("--malloc", choices=sorted(ALLOCATORS), default=default.allocator, help="glibc's thresholds")
    case.add_argument("--device", choices=("cpu", "cuda"), default=default.device)
    case.add_argument("--warmup", type=int, default=default.warmup, metavar="STEPS")
    case.add_argument("--steps", type=_positive, default=default.steps)
    case.add_argument("--rounds", type=_positive, default=1)
    case.add_argument("--profile", action="store_true", help="one step more, and where its time goes")
    case.add_argument("--output", type=Path)
    table = commands.add_parser("table", help="the tables of records that are there")
    table.add_argument("file", type=Path)
    worker = commands.add_parser("worker", help="one case in this process (called by the others)")
    worker.add_argument("run", help="a Run of settings.py, as JSON")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number

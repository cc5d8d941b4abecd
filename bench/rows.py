"""`python -m bench.rows`: CPU time and memory of reading rows, the first time and from the store, by number of rows.

Every measurement is a new process, with a new store for the first start. Columns: CPU seconds of the process until its
libraries are imported, then until both parts of the rows are there, then to read the text of every row once; and the
largest resident size. The rows are JSON lines of a prompt of 14 words and an answer of 16, all different.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.machine import ROOT

NUMBERS = (10_000, 250_000, 500_000, 1_000_000)
_WORDS = ("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school")


def write_rows(path: Path, number: int) -> None:
    """Write short rows, all of them different."""
    words = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for place in range(number):
            prompt = f"What is the {' '.join(words.choices(_WORDS, k=9))} of {place}?"
            answer = f"It is {' '.join(words.choices(_WORDS, k=14))}."
            file.write(json.dumps({"prompt": prompt, "answer": answer}) + "\n")


def measure_here(path: str) -> dict[str, float]:
    """Read the rows of a file in this process, a tenth of them held out."""
    from distillab.config.data import DataConfig
    from distillab.data.splits import load_examples
    from distillab.runs.environment import peak_rss_bytes

    data = DataConfig.model_validate({"train": {"path": path}})
    imported, began = time.process_time(), time.monotonic()
    splits = load_examples(data)
    loaded, ended = time.process_time(), time.monotonic()
    characters = sum(len(example.prompt) + len(example.answer) for example in splits.train)
    return {
        "import": imported,
        "load": loaded - imported,
        "wall": ended - began,
        "text": time.process_time() - loaded,
        "characters": characters,
        "MiB": peak_rss_bytes() / 2**20,
    }


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=NUMBERS)
    parser.add_argument("--measure", metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure_here(options.measure)))
        return
    print("| rows | start | imports, CPU s | rows, CPU s | rows, wall s | µs a row | text, CPU s | peak, MiB |")
    print("|---|---|---|---|---|---|---|---|")
    for number in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "rows.jsonl")
            write_rows(path, number)
            for start in ("first", "second"):
                command = [sys.executable, "-m", "bench.rows", "--measure", str(path)]
                environment = os.environ | {"DISTILLAB_CACHE": folder}
                done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
                found = json.loads(done.stdout)
                print(
                    f"| {number:,} | {start} | {found['import']:.1f} | {found['load']:.2f} | {found['wall']:.1f} "
                    f"| {found['load'] / number * 1e6:.1f} | {found['text']:.2f} | {found['MiB']:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()

"""What it costs to align two tokenisations, and to build a projection. `python -m bench.alignment`

CPU seconds of one core, the median of several rounds, on the texts of the materials (DISTILLAB_MATERIALS). Tokens are
the student's; the teacher's come on top and are not counted. `with tokenizers` adds both tokenizers' own work.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core, and before the library is loaded

import numpy as np

from distillab.alignment.spans import SpanAligner
from distillab.alignment.tables import TokenTable
from distillab.alignment.vocabulary import project_vocabulary
from distillab.data.pieces import canonical_pieces
from distillab.pairing.loading import load_tokenizer
from distillab.pairing.token_bytes import token_meanings

ROUNDS = 5
ROOT = Path(__file__).resolve().parent.parent
# student, teacher
PAIRS = (
    ("tinyllama-1.1b", "mistral-7b-v0.1"),
    ("tinyllama-1.1b", "gpt2"),
    ("gpt2", "mistral-7b-v0.1"),
    ("mistral-7b-v0.1", "tok512"),  # a normaliser that changes bytes: every row goes the general way
)
T = TypeVar("T")


def texts_of(materials: Path) -> list[str]:
    """Prompts and answers, one text a row."""
    names = ("dolly/dev.jsonl", "gsm8k/train.jsonl")
    rows = [json.loads(line) for name in names for line in (materials / "text" / name).open(encoding="utf-8")]
    return ["\n".join(str(value) for value in row.values()) for row in rows]


def cpu_s(work: Callable[[], T], rounds: int = ROUNDS) -> tuple[float, T]:
    """Median CPU seconds, and the last result."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        result = work()
        times.append(time.process_time() - start)
    return statistics.median(times), result


def main(arguments: Sequence[str] | None = None) -> None:
    """One line a pair and batch size, then one line a projection."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = os.environ.get("DISTILLAB_MATERIALS", ROOT / ".." / "shared" / "data")
    parser.add_argument("--materials", type=Path, default=Path(default))
    parser.add_argument("--rows", type=int, default=3000, help="texts that are aligned")
    options = parser.parse_args(arguments)
    texts = texts_of(options.materials.resolve())[: options.rows]
    names = dict.fromkeys(name for pair in PAIRS for name in pair)
    tokenizers = {n: load_tokenizer(str(options.materials.resolve() / "tokenizers" / n)).tokenizer for n in names}
    meanings = {name: token_meanings(tokenizer) for name, tokenizer in tokenizers.items()}
    tables = {name: TokenTable.of(known) for name, known in meanings.items()}
    for tokenizer in tokenizers.values():
        tokenizer.model_max_length = 10**9
    print(f"{len(texts)} texts, {sum(map(len, texts)):,} characters")
    for student, teacher in PAIRS:
        sides = [(tokenizers[name], tables[name]) for name in (student, teacher)]
        encoding_s, rows = cpu_s(lambda s=sides: [tokenizer(texts)["input_ids"] for tokenizer, _ in s], rounds=2)
        ours, theirs = ([np.array(row, dtype=np.int32) for row in side] for side in rows)
        made = SpanAligner(student=sides[0][1], teacher=sides[1][1], differing="leave_out")
        tokens = sum(map(len, ours))
        for size in (64, len(texts)):
            slices = [slice(start, start + size) for start in range(0, len(texts), size)]
            took, plans = cpu_s(lambda m=made, a=ours, b=theirs, cut=slices: [m.rows(a[s], b[s]) for s in cut])
            spans = sum(len(plan) for batch in plans for plan in batch)
            print(
                f"{student} <- {teacher}, {size} rows at a time: {tokens:,} tokens, {spans:,} spans, "
                f"{tokens / took / 1e6:.2f} million tokens/s, with tokenizers "
                f"{tokens / (took + encoding_s) / 1e6:.2f} million",
                flush=True,
            )
    for student, teacher in PAIRS[:3]:
        took, projection = cpu_s(
            lambda s=student, t=teacher: project_vocabulary(
                teacher=meanings[t],
                student=meanings[s],
                pieces=canonical_pieces(tokenizers[s], meanings[s]),
                teacher_fingerprint="bench",
                student_fingerprint="bench",
            ),
            rounds=1,
        )
        shares = "  ".join(f"{name} {share:.2%}" for name, share in projection.coverage_by_rows()._asdict().items())
        print(f"projection {teacher} -> {student}: {took:.2f} s, {shares}", flush=True)


if __name__ == "__main__":
    main()

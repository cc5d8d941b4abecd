"""`python -m bench.doctor_power`: how often the doctor's permutation test is right.

200 seeded repetitions of each case and size, with real models from DISTILLAB_MATERIALS. The forward passes are made
once; a repetition draws rows, a window of 16 positions of each, and the shuffles. Prints the table of
docs/doctor/pair.md; about five minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from bench.machine import ROOT
from distillab.config.data import SourceConfig
from distillab.data.encoding import EncodedRow
from distillab.data.reading import load_reader
from distillab.data.row_examples import to_examples
from distillab.data.sources import read_rows
from distillab.doctor.pair.measures import SignalRow, Tested, measure_signal, signal_row, tokens_test
from distillab.doctor.pair.verdict import verdict

WINDOW = 16
ROWS = 48
TOKENS = 128
STORIES, SUMS = "text/tinystories/stories_dev.jsonl", "text/gsm8k/train.jsonl"

Fault = Callable[[list[SignalRow], torch.Generator], list[SignalRow]]


@dataclass(frozen=True)
class Case:
    """What a teacher says of rows, what is done to it, and what it should be taken for."""

    name: str
    rows: list[SignalRow]
    sizes: tuple[int, ...]
    right: str
    own: Tested | None = None
    fault: Fault | None = None


def main(arguments: Sequence[str]) -> int:
    """Exit code 0: all was measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.doctor_power", description=__doc__)
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--only", default="", help="cases whose name holds this word")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    print("| case | tokens | p ≤ 0.05 | taken for | error |")
    print("|---|---|---|---|---|")
    for case in cases(Path(os.environ.get("DISTILLAB_MATERIALS", ROOT / ".." / "shared" / "data"))):
        for size in case.sizes if options.only in case.name else ():
            print(_line(case, size, options.repetitions), flush=True)
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    return 0


def cases(materials: Path) -> list[Case]:
    """All cases, with their forward passes made."""
    models = materials / "models"
    strong = _rows(models / "bitllama-3M-tok512", models / "bitllama-3M-tok512", materials / STORIES)
    weak = _rows(models / "smallmistral-stories", models / "smallmistral-stories", materials / SUMS)
    scrambled = _rows(models / "bitllama-3M-tok512", models / "bitllama-3M-tok512", materials / STORIES, scramble=True)
    stories = _rows(models / "smallmistral-stories", models / "smallmistral-stories", materials / STORIES)
    foreign = _rows(models / "smallmistral-stories", materials / "tokenizers/tinyllama-1.1b", materials / STORIES)
    own, mistral = tokens_test(strong, seed=0), tokens_test(stories, seed=0)
    sizes, few = (64, 128, 256, 512), (64, 256)
    return [
        Case("aligned, a good teacher", strong, sizes, "fits"),
        Case("aligned, text that the teacher hardly knows", weak, few, "fits"),
        Case("other ids: every id renamed", scrambled, sizes, "unrelated", own),
        Case("other ids: Mistral's teacher, TinyLlama's tokens", foreign, few, "unrelated", mistral),
        Case("positions shuffled within rows", strong, sizes, "unrelated", own, _shuffled),
        Case("shifted by one", strong, sizes, "shifted", own, _shifted),
        Case("signals of other rows", strong, sizes[1:], "other rows", own, _exchanged),
    ]


@torch.no_grad()
def _rows(model: Path, tokenizer: Path, data: Path, *, scramble: bool = False) -> list[SignalRow]:
    """Signals at the first positions of rows, of one length.

    Args:
        scramble: every id of the student's tokenizer means another token to the teacher.
    """
    examples = to_examples(read_rows(SourceConfig(path=str(data), limit=3 * ROWS)), columns=None, prompt_share=0.25)
    reader = load_reader(str(tokenizer), revision=None, template="plain", kind=examples[0].kind, max_tokens=TOKENS + 1)
    teacher = AutoModelForCausalLM.from_pretrained(str(model), dtype=torch.float32).eval()
    encoded = [row for row in map(reader.encoder.encode, examples) if isinstance(row, EncodedRow) and len(row) > TOKENS]
    names = torch.arange(len(reader.tokenizer))
    if scramble:
        names = torch.randperm(len(names), generator=torch.Generator().manual_seed(1))
    found = []
    for row in encoded[:ROWS]:
        ids = names[torch.from_numpy(row.input_ids).long()]
        places = torch.arange(1, TOKENS + 1)
        found.append(signal_row(places, ids[places], teacher(ids[None]).logits[0][places - 1], None))
    return found


def _line(case: Case, size: int, repetitions: int) -> str:
    taken: Counter[str] = Counter()
    errors = significant = 0
    for seed in range(repetitions):
        generator = torch.Generator().manual_seed(seed)
        rows = _drawn(case, size // WINDOW, generator)
        measures = measure_signal(rows, seed=seed)
        found = verdict(measures, own=case.own)
        taken[found.reading] += 1
        errors += found.sure and found.reading not in ("fits", "no verdict")
        significant += measures.tokens is not None and measures.tokens.p <= 0.05
    shares = [(f"**{name}**" if name == case.right else name, count) for name, count in taken.most_common()]
    told = ", ".join(f"{name} {count / repetitions:.1%}" for name, count in shares)
    return f"| {case.name} | {size} | {significant / repetitions:.1%} | {told} | {errors / repetitions:.1%} |"


def _drawn(case: Case, count: int, generator: torch.Generator) -> list[SignalRow]:
    chosen = torch.randperm(len(case.rows), generator=generator)[:count].tolist()
    start = int(torch.randint(1, TOKENS - WINDOW, (1,), generator=generator))
    rows = [case.rows[number] for number in chosen]
    if case.fault is _shifted:
        return [_cut(row, slice(start, start + WINDOW), behind=1) for row in rows]
    cut = [_cut(row, slice(start, start + WINDOW)) for row in rows]
    return cut if case.fault is None else case.fault(cut, generator)


def _cut(row: SignalRow, window: slice, *, behind: int = 0) -> SignalRow:
    """A window of a row, with the signals of as many positions before each token."""
    signals = slice(max(0, window.start - behind), max(0, window.start - behind) + WINDOW)
    return replace(row, places=row.places[window], ids=row.ids[window], teacher_logp=row.teacher_logp[signals])


def _shuffled(rows: list[SignalRow], generator: torch.Generator) -> list[SignalRow]:
    return [replace(row, teacher_logp=row.teacher_logp[_permutation(len(row), generator)]) for row in rows]


def _shifted(rows: list[SignalRow], generator: torch.Generator) -> list[SignalRow]:
    raise AssertionError("a shift is made where windows are cut, from the signals before them")


def _exchanged(rows: list[SignalRow], generator: torch.Generator) -> list[SignalRow]:
    return [replace(row, teacher_logp=other.teacher_logp) for row, other in zip(rows, rows[1:] + rows[:1], strict=True)]


def _permutation(size: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(size, generator=generator)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

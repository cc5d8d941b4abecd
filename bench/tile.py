"""`python -m bench.tile`: what a tile's forward KL and its gradient take, beside what no implementation can leave out.

Seconds of CPU, one thread, for 1,024 rows of logits of both models, medians of five interleaved rounds. read: one pass
over both (`amax`). write: the gradient once (`copy_`). exponentials: one a number, in place, in cached pieces. eager:
the package's formula in pieces of the size that it uses. compiled: the same value and gradient by Inductor, row by row,
which was its fastest size; left out where no compiler is found.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch._inductor.exc import InductorError

from bench.settings import SEED
from distillab.divergences.fused import Probabilities, evaluated
from distillab.divergences.kl import forward_formula

_ROWS = 1_024
_MADE = 128  # rows in memory; figures are for _ROWS
_ROUNDS = 5
_PIECE = 2**19  # numbers of a piece of the package's terms, 2 MiB


def gradient_of_row(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return (N,) KL(teacher ‖ student) and its gradient (N, V) with respect to the student's logits."""
    student, teacher = (of - of.amax(dim=-1, keepdim=True) for of in (student, teacher))
    q, p = student.exp(), teacher.exp()
    q_total, p_total = q.sum(dim=-1, keepdim=True), p.sum(dim=-1, keepdim=True)
    ratio = (p * (teacher - student)).sum(dim=-1, keepdim=True) / p_total
    return (ratio + (q_total / p_total).log())[:, 0], q / q_total - p / p_total


def measure(vocabulary: int) -> dict[str, float]:
    """Return the median seconds by name."""
    generator = torch.Generator().manual_seed(SEED)
    student, teacher = (torch.randn(_MADE, vocabulary, generator=generator) for _ in range(2))
    out = torch.empty_like(student)
    compiled = torch.compile(gradient_of_row, dynamic=False)
    rows = max(1, _PIECE // vocabulary)

    def eager() -> None:
        for a in range(0, _MADE, rows):
            here = slice(a, a + rows)
            q = Probabilities(student[here])
            found = evaluated(forward_formula, q, Probabilities(teacher[here]))
            torch.addcmul(found.slope, q.prob, found.sums(), value=-1.0, out=out[here])

    def by_inductor() -> None:
        for n in range(_MADE):
            out[n] = compiled(student[n : n + 1], teacher[n : n + 1])[1][0]

    def exponentials() -> None:
        scratch = torch.empty(rows, vocabulary)
        for of in (student, teacher):
            for a in range(0, _MADE - rows, rows):
                torch.exp(of[a : a + rows], out=scratch)

    works: dict[str, Callable[[], object]] = {
        "read": lambda: (student.amax(dim=-1), teacher.amax(dim=-1)),
        "write": lambda: out.copy_(student),
        "exponentials": exponentials,
        "eager": eager,
    }
    eager()
    expected = out.neg()  # the slope of forward KL has the factor -1, which the caller multiplies by
    began = time.perf_counter()
    try:
        by_inductor()
    except InductorError as error:
        print(f"compiled: left out, {str(error).splitlines()[0]}", file=sys.stderr)
    else:
        print(f"compiled in {time.perf_counter() - began:.0f} s", file=sys.stderr)
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-9)
        works["compiled"] = by_inductor
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(_ROUNDS):
        for name, work in works.items():
            start = time.process_time()
            work()
            taken[name].append((time.process_time() - start) * _ROWS / _MADE)
    return {name: statistics.median(of) for name, of in taken.items()}


def main() -> None:
    """Print a table, a line for each vocabulary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[32_000, 151_936])
    torch.set_num_threads(1)
    for vocabulary in parser.parse_args().vocabularies:
        found = measure(vocabulary)
        print(f"{vocabulary:,} ids:", ", ".join(f"{name} {seconds:.3f}" for name, seconds in found.items()))


if __name__ == "__main__":
    main()

"""A student and a teacher divided over two gloo processes do what one process does, and resume on any number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.training.conftest import tiny_llama
from tests.training.two_processes import in_processes

WORKER = "tests.training.parallel_worker"
LIMIT = 1e-6
WEIGHTS = 21  # of the student


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a student, a teacher, and a run of each case."""
    folder = tmp_path_factory.mktemp("runs")
    tiny_llama(0).save_pretrained(folder / "student")
    tiny_llama(99, layers=3).save_pretrained(folder / "teacher")
    return folder


class Run:
    """Steps of a case: what they measured, the first step's gradients, and the last weights."""

    def __init__(self, runs: Path, case: str, processes: int, *, stop: int = 0, resume: Path | None = None) -> None:
        self.folder = runs / f"{case}, {processes} processes, {resume.parts[-3] if resume else stop}"
        self.processes = processes
        words = (case, str(stop), *([] if resume is None else [str(resume)]))
        self.result: dict[str, Any] = in_processes(WORKER, self.folder, *words, processes=processes)
        self.losses = [report["loss"] for report in self.result["reports"]]
        self.gradients = load_file(self.folder / "gradients.safetensors")
        self.weights = load_file(self.folder / "weights.safetensors")

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoints" / "checkpoint-2"


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.fixture(scope="module")
def unbroken(runs: Path) -> dict[str, Run]:
    """Runs of one process, by their case."""
    return {}


def on_one_process(runs: Path, unbroken: dict[str, Run], case: str) -> Run:
    if "adapters" in case:
        case = "plain with adapters"
    else:
        case = "plain, terms of a tensor-parallel teacher" if "tensor" in case else "plain"
    if case not in unbroken:
        unbroken[case] = Run(runs, case, 1)
    return unbroken[case]


def require_equal(one: Run, several: Run, parts: int) -> None:
    assert (one.result["world"], several.result["world"]) == (1, several.processes)
    assert (one.result["parts"], several.result["parts"]) == (0, parts)
    assert several.losses == pytest.approx(one.losses, rel=LIMIT)
    assert distance(one.gradients, several.gradients) < LIMIT
    assert distance(one.weights, several.weights) < LIMIT
    shares = (run.result["reports"][0]["gradient_shares"] for run in (one, several))
    assert next(shares) == pytest.approx(next(shares), rel=LIMIT)


# of each kind of division one here, the others in make test-slow
@pytest.mark.parametrize(
    ("case", "processes", "parts"),
    [
        ("plain", 2, 0),
        ("student and tensor-parallel teacher", 2, WEIGHTS),
        *(
            pytest.param(*words, marks=pytest.mark.slow)
            for words in [
                ("adapters on a divided student", 2, WEIGHTS),
                ("replicated groups", 2, WEIGHTS),
                ("student and teacher", 2, WEIGHTS),
                ("tensor-parallel teacher", 2, 0),
                ("teacher by FSDP2 and tensor", 4, 0),
            ]
        ),
    ],
)
def test_several_processes_equal_one(
    runs: Path, unbroken: dict[str, Run], case: str, processes: int, parts: int
) -> None:
    require_equal(on_one_process(runs, unbroken, case), Run(runs, case, processes), parts)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["student", "adapters on a divided student"])
def test_a_divided_student_resumes_bit_exactly(runs: Path, case: str) -> None:
    whole, killed = Run(runs, case, 2), Run(runs, case, 2, stop=3)
    resumed = Run(runs, case, 2, resume=killed.checkpoint)
    assert resumed.losses == whole.losses[2:]
    assert distance(whole.weights, resumed.weights) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "processes", "after"),
    [
        ("plain", 1, "student"),
        ("student", 2, "plain"),
        ("plain with adapters", 1, "adapters on a divided student"),
    ],
)
def test_a_run_resumes_on_another_number_of_processes(
    runs: Path, unbroken: dict[str, Run], before: str, processes: int, after: str
) -> None:
    one = on_one_process(runs, unbroken, before)
    killed = Run(runs, before, processes, stop=3)
    resumed = Run(runs, after, 3 - processes, resume=killed.checkpoint)
    assert resumed.losses == pytest.approx(one.losses[2:], rel=LIMIT)
    assert distance(one.weights, resumed.weights) < LIMIT

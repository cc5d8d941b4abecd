"""More ways to divide a student and a teacher over processes than `test_parallel.py` takes: `make prove`."""

from __future__ import annotations

from pathlib import Path

from tests.training.test_parallel import (
    WEIGHTS,
    Run,
    on_one_process,
    require_equal,
    require_exact_resumption,
    require_resumption,
    runs,  # noqa: F401
)


def test_groups_and_two_divided_models_equal_one_process(runs: Path) -> None:  # noqa: F811
    alone = Run(runs, "plain", 1)
    for case in ("replicated groups", "student and teacher"):
        require_equal(alone, Run(runs, case, 2), WEIGHTS)


def test_adapters_on_a_divided_student_resume_bit_exactly(runs: Path) -> None:  # noqa: F811
    require_exact_resumption(runs, "adapters on a divided student")


def test_a_tensor_parallel_teacher_equals_one_process(runs: Path) -> None:  # noqa: F811
    alone = on_one_process(runs, {}, "tensor-parallel teacher")
    for case, processes in (("tensor-parallel teacher", 2), ("teacher by FSDP2 and tensor", 4)):
        require_equal(alone, Run(runs, case, processes), 0)


def test_adapters_resume_on_another_number_of_processes(runs: Path) -> None:  # noqa: F811
    one = on_one_process(runs, {}, "plain with adapters")
    require_resumption(runs, one, "plain with adapters", 1, "adapters on a divided student")

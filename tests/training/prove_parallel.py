"""More ways to divide a student and a teacher over two processes than `test_parallel.py` takes: `make prove`."""

from __future__ import annotations

from pathlib import Path

from tests.training.test_parallel import WEIGHTS, Run, require_equal, require_exact_resumption, runs  # noqa: F401


def test_groups_and_two_divided_models_equal_one_process(runs: Path) -> None:  # noqa: F811
    alone = Run(runs, "plain", 1)
    for case in ("replicated groups", "student and teacher"):
        require_equal(alone, Run(runs, case, 2), WEIGHTS)


def test_adapters_on_a_divided_student_resume_bit_exactly(runs: Path) -> None:  # noqa: F811
    require_exact_resumption(runs, "adapters on a divided student")

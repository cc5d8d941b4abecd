"""The bench's batches of masks' borders and kinds, and those of the fifteen cases that no check had seen."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.doctor import cases_borders, cases_fresh
from bench.doctor.case import Case, Place
from bench.doctor.score import run_cases

# those of logs train and those of rows are slow: left to `make bench-doctor`, and planted in the tests of their checks
CASES = [case for case in (*cases_borders.CASES, *cases_fresh.CASES) if case.audit in ("batch", "loss")]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case_is_judged_rightly(case: Case, materials: Path, tmp_path: Path) -> None:
    (judged,) = run_cases([case], Place(materials, tmp_path))
    assert judged.verdict == ("found" if case.expected else "good"), judged.found
    assert judged.false_errors == ()

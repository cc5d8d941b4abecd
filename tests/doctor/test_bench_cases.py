"""The bench's written cases of batches and losses. Those of logs train, those of rows are slow: `make bench-doctor`."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.doctor.case import Case, Place
from bench.doctor.command import QUICK
from bench.doctor.score import run_cases

CASES = [case for part in QUICK for case in part if case.set_up != "ours"]


@pytest.mark.usefixtures("read_once")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case_is_judged_rightly(case: Case, materials: Path, tmp_path: Path) -> None:
    (judged,) = run_cases([case], Place(materials, tmp_path))
    assert judged.verdict == ("found" if case.expected else "good"), judged.found
    assert judged.false_errors == ()

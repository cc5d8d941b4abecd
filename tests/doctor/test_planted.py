"""Every id that a part of the doctor gives is planted by a row of the tables, or by a test of its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.doctor.batch_borders import FAULTS as OF_BATCHES
from tests.doctor.loss_functions import FAULTS as OF_LOSSES
from tests.doctor.test_data_faults import FAULTS as OF_ROWS
from tests.doctor.test_run_audit import FAULTS as OF_RUNS

DOCTOR = Path(__file__).resolve().parents[2] / "src" / "distillab" / "doctor"
# part: what the tables plant, and what tests of their own do
PLANTED = {
    "batch": (
        {fault.id for fault in OF_BATCHES},
        {"ids-of-another-tokenizer", "template-of-another-family", "train-held-out-overlap"},
    ),
    "data": ({fault.id for fault in OF_ROWS}, {"unknown-tokens"}),
    "loss": ({case.found for case in OF_LOSSES}, {"loss-description"}),
    "run": (
        {case.finds for case in OF_RUNS},
        {"difference-below-interval", "teacher-not-better", "worse-than-start"},
    ),
}


@pytest.mark.parametrize("part", PLANTED)
def test_every_id_is_planted(part: str) -> None:
    given = {
        name
        for path in (DOCTOR / part).glob("*.py")
        for name in re.findall(r'from_page\(\s*"([a-z0-9-]+)"', path.read_text(encoding="utf-8"))
    }
    planted, elsewhere = PLANTED[part]
    assert given == planted | elsewhere
    assert not planted & elsewhere

"""An evaluation that two processes share equals that of one, row by row."""

from __future__ import annotations

from pathlib import Path

import pytest

from distillab.processes import Processes
from tests.conftest import ROOT
from tests.evaluation.test_tasks import PACKAGES
from tests.training.two_processes import in_processes

WORKER = "tests.evaluation.divided_worker"


@pytest.mark.parametrize("rows", [1, 5])  # one batch, of which one process has none; three batches
def test_two_processes_share_an_evaluation(tmp_path: Path, materials: Path, rows: int) -> None:
    one = in_processes(WORKER, tmp_path / "one", str(materials), str(rows), processes=1)
    two = in_processes(WORKER, tmp_path / "two", str(materials), str(rows))
    (alone,), shared = one.pop("passes"), two.pop("passes")
    assert two == one
    assert len(one["answers"]) == rows and len(one["own"]) == rows
    if rows > 1:  # as many in each process, and fewer than in one
        assert shared[0] < 0.8 * alone
    assert len(shared) == 2


@pytest.mark.skipif(not PACKAGES.is_dir(), reason="make setup installs lm_eval beside the environment")
def test_the_first_of_two_processes_evaluates_tasks_alone(
    tmp_path: Path, materials: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    task = "recipes/tasks/endings.yaml"
    one = in_processes(WORKER, tmp_path / "one", str(materials), "1", task, processes=1)
    two = in_processes(WORKER, tmp_path / "two", str(materials), "1", task)
    (alone,), shared = one.pop("passes"), two.pop("passes")
    assert two == one
    assert one["record"]["tasks"][0]["documents"] == 8
    assert shared[0] == alone > shared[1]


@pytest.mark.parametrize("items", [0, 1, 4, 5])
def test_work_is_dealt_out_once_and_each_process_gets_as_much(items: int) -> None:
    dealt = [list(Processes(number, 3).dealt(items)) for number in range(3)]
    assert sorted(item for part in dealt for item, counts in part if counts) == list(range(items))
    assert {len(part) for part in dealt} == {-(-items // 3)}

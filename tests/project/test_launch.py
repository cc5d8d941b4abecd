"""Two of the commands of docs/parallel.md that start a run on several processes; the others are in `tests/runs`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import ROOT
from tests.processes import ONE_THREAD, Forked, ended

NODES = ("--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d", "--rdzv_id=7", "--rdzv_endpoint=127.0.0.1:{port}")
# two tasks on one node; as Slurm's srun, it ends with the highest exit code
SRUN = """#!/bin/bash
export SLURM_NTASKS=2 SLURM_NTASKS_PER_NODE=2
SLURM_PROCID=0 SLURM_LOCALID=0 "$@" & one=$!
SLURM_PROCID=1 SLURM_LOCALID=1 "$@" & other=$!
wait $one; a=$?; wait $other; b=$?
exit $((a > b ? a : b))
"""
SCONTROL = '#!/bin/bash\n[ "$1" = show ] && echo 127.0.0.1 || echo "$@" >> {log}\n'


pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_two_launchers_start_one_run_as_on_two_machines() -> None:
    """Once they have found each other, it is the run of tests/runs."""
    nodes = (word.format(port=20000 + os.getpid() % 10000) for word in NODES)
    words = ("torch.distributed.run", *nodes, "-m", "tests.project.joining", "train", "recipe.yaml")
    for code, err in map(ended, [Forked(*words) for _ in range(2)]):
        assert code == 0, err
        assert err.count("train recipe.yaml on 2 processes") == 1, err


def test_the_slurm_file_starts_a_task_for_each_process(tmp_path: Path) -> None:
    programs, log = tmp_path / "bin", tmp_path / "requeued"
    programs.mkdir()
    command = f'#!/bin/bash\nexec {sys.executable} -m tests.project.joining "$@"\n'
    for name, text in {"srun": SRUN, "scontrol": SCONTROL.format(log=log), "distillab": command}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NTASKS": "2"}
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | ONE_THREAD | slurm | {"PATH": path, "SLURM_NTASKS_PER_NODE": "2"}
    script = ["bash", str(ROOT / "examples" / "slurm.sbatch"), "recipe.yaml"]
    done = subprocess.run(script, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("train recipe.yaml on 2 processes") == 2, done.stderr
    assert not log.exists()

"""The commands of docs/parallel.md that start a run on several processes, and the file for Slurm; plain torchrun is in
tests/runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import ROOT
from tests.processes import ONE_THREAD, Forked, ended
from tests.runs.test_processes import write_recipe

TRAIN = ("-m", "distillab.cli.main", "train")
NODES = ("--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d", "--rdzv_id=7", "--rdzv_endpoint=127.0.0.1:{port}")
COMMANDS = {
    "accelerate launch": [("accelerate.commands.launch", "--multi_gpu", "--num_processes=2", *TRAIN)],
    "torchrun on two machines": [("torch.distributed.run", *NODES, *TRAIN)] * 2,
}
# two tasks on one node; as Slurm's srun, it ends with the highest exit code
SRUN = """#!/bin/bash
export SLURM_NTASKS=2 SLURM_NTASKS_PER_NODE=2
SLURM_PROCID=0 SLURM_LOCALID=0 "$@" & one=$!
SLURM_PROCID=1 SLURM_LOCALID=1 "$@" & other=$!
wait $one; a=$?; wait $other; b=$?
exit $((a > b ? a : b))
"""
SCONTROL = '#!/bin/bash\n[ "$1" = show ] && echo 127.0.0.1 || echo "$@" >> {log}\n'


pytestmark = pytest.mark.timeout(1200)


@pytest.fixture
def recipe(tiny_world: dict[str, Any], tmp_path: Path) -> Path:
    training = {"steps": 2, "evaluate_every": 2}
    return write_recipe(tiny_world, tmp_path, "run", method="sft", training=training)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_of_the_page_starts_two_processes(recipe: Path, tmp_path: Path, name: str) -> None:
    port = str(20000 + os.getpid() % 10000)
    environment = ONE_THREAD | {"ACCELERATE_USE_CPU": "true"}
    started = [
        Forked(*(word.format(port=port) for word in words), str(recipe), environment=environment)
        for words in COMMANDS[name]
    ]
    codes, outputs = zip(*map(ended, started), strict=True)
    out = "\n".join(outputs)
    assert set(codes) == {0}, out[-4000:]
    assert "process 0 of 2" in out and "process 1 of 2" in out, out
    assert (tmp_path / "run" / "run.json").exists()


def test_the_slurm_file_starts_a_task_for_each_process(recipe: Path, tmp_path: Path) -> None:
    programs, log = tmp_path / "bin", tmp_path / "requeued"
    programs.mkdir()
    command = f'#!/bin/bash\nexec {sys.executable} -m distillab.cli.main "$@"\n'
    for name, text in {"srun": SRUN, "scontrol": SCONTROL.format(log=log), "distillab": command}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NTASKS": "2"}
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | ONE_THREAD | slurm | {"PATH": path, "SLURM_NTASKS_PER_NODE": "2"}
    script = ["bash", str(ROOT / "examples" / "slurm.sbatch"), str(recipe)]
    done = subprocess.run(
        script, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    out = done.stdout
    assert done.returncode == 0, out[-4000:]
    assert "process 0 of 2" in out and "process 1 of 2" in out, out
    assert (tmp_path / "run" / "run.json").exists() and not log.exists()

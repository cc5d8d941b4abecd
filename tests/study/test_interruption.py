"""Real processes, really interrupted: Ctrl-C while training, kill -9 while generating, a full disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file

from distillab.errors import StorageError
from distillab.files import require_space

LIMIT_S = 90


def _write(tiny_world: dict[str, Any], folder: Path, output: str, **changes: Any) -> Path:
    values = {key: value for key, value in tiny_world.items() if key != "seeds"}
    training = {**tiny_world["training"], "steps": 60, "checkpoint_every": 5, "evaluate_every": 20}
    values |= {"method": "logits", "training": training, "output": str(folder / output), **changes}
    path = folder / f"{output}.yaml"
    with path.open("w") as stream:
        YAML(typ="safe", pure=True).dump(values, stream)
    return path


def _start(recipe: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "distillab.cli.main", "train", str(recipe)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _finish(recipe: Path) -> None:
    process = _start(recipe)
    _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, err[-2000:]


def _wait_for(process: subprocess.Popen[str], ready: Any) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not ready():
        assert process.poll() is None, process.communicate()[1][-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _weights(folder: Path) -> torch.Tensor:
    tensors = load_file(folder / "student" / "model.safetensors")
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


def _steps(folder: Path) -> list[int]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if "loss" in line]


def test_ctrl_c_while_training_loses_nothing(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    whole = _write(tiny_world, tmp_path, "whole")
    _finish(whole)
    broken = _write(tiny_world, tmp_path, "broken")
    process = _start(broken)
    _wait_for(process, lambda: (tmp_path / "broken" / "checkpoints" / "checkpoint-10" / "trainer_state.json").exists())
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130
    assert "the same command resumes" in err and "Traceback" not in err
    assert not (tmp_path / "broken" / "run.json").exists()
    _finish(broken)
    assert _steps(tmp_path / "broken") == list(range(1, 61))
    assert torch.equal(_weights(tmp_path / "broken"), _weights(tmp_path / "whole"))


def test_kill_9_while_the_teacher_answers_loses_nothing(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    answers = {"sample": True, "max_new_tokens": 24, "batch_size": 2, "keep_cut_off": True, "answers_per_prompt": 2}
    whole = _write(tiny_world, tmp_path, "whole", method="seqkd", teacher_answers=answers)
    _finish(whole)
    broken = _write(tiny_world, tmp_path, "broken", method="seqkd", teacher_answers=answers)
    process = _start(broken)
    journal = tmp_path / "broken" / "answers" / "journals" / "0-of-1.jsonl"
    _wait_for(process, lambda: journal.exists() and journal.read_bytes().count(b"\n") > 0)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=LIMIT_S)
    assert journal.read_bytes().count(b"\n") < 4, "the teacher had finished before it was killed"
    _finish(broken)

    def stored(name: str) -> dict[str, bytes]:
        folder = tmp_path / name / "answers" / "shards"
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    assert len(stored("whole")) == 4
    assert stored("broken") == stored("whole")
    assert torch.equal(_weights(tmp_path / "broken"), _weights(tmp_path / "whole"))


def test_a_disk_without_room_is_refused_before_writing(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"(?s)no room for the checkpoint.*needed .*free .*resumes"):
        require_space(tmp_path / "not" / "yet", 1 << 60, what="the checkpoint")
    require_space(tmp_path, 1, what="a byte")


def test_a_full_disk_while_measuring_is_said_and_loses_nothing(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    """/dev/full fails every write as a full disk does."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    recipe = _write(tiny_world, tmp_path, "run")
    process = _start(recipe)
    _wait_for(process, lambda: (tmp_path / "run" / "checkpoints" / "checkpoint-5" / "trainer_state.json").exists())
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=LIMIT_S)
    metrics = tmp_path / "run" / "metrics.jsonl"
    lines = metrics.read_bytes()
    metrics.with_name("metrics.jsonl.tmp").symlink_to("/dev/full")
    process = _start(recipe)
    _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1 and "No space left on device" in err and "Traceback" not in err, err
    assert metrics.read_bytes() == lines
    metrics.with_name("metrics.jsonl.tmp").unlink()
    _finish(recipe)
    assert _steps(tmp_path / "run") == list(range(1, 61))

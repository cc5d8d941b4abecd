"""One run on two processes: it equals one process, ends when a process dies, and resumes elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file

from distillab.files import read_json_lines
from tests.processes import ONE_THREAD, Forked, ended, start_distillab, steps_done, together, wait_for

LAUNCH = ("torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "distillab.cli.main", "train")


def write_recipe(tiny_world: dict[str, Any], folder: Path, output: str, **changes: Any) -> Path:
    values = {key: value for key, value in tiny_world.items() if key != "seeds"}
    training = {**tiny_world["training"], **changes.pop("training", {})}
    values |= {"method": "logits", "training": training, "output": str(folder / output), **changes}
    path = folder / f"{output}.yaml"
    with path.open("w") as stream:
        YAML(typ="safe", pure=True).dump(values, stream)
    return path


def weights(run: Path) -> torch.Tensor:
    tensors = load_file(run / "student" / "model.safetensors")
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


def on_two(recipe: Path) -> None:
    for code, err in map(ended, together("distillab.cli.main", "train", str(recipe))):
        assert code == 0, err


def _figures(run: Path) -> dict[str, float]:
    record = json.loads((run / "run.json").read_text())
    return {
        metric["name"]: metric["value"] for metric in record["evaluation"]["metrics"] if metric["value"] is not None
    }


def test_two_processes_divide_a_run_and_have_the_figures_of_one(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    """The teacher's answers, training, the learning curve, the held-out rows, and the student's answers."""
    answers = {"sample": True, "max_new_tokens": 8, "keep_cut_off": True, "answers_per_prompt": 2}
    one, two = (
        write_recipe(tiny_world, tmp_path, name, method="seqkd", teacher_answers=answers) for name in ("one", "two")
    )
    assert ended(start_distillab("train", str(one)))[0] == 0
    on_two(two)
    shards = [
        {path.name: path.read_bytes() for path in (tmp_path / name / "answers" / "shards").iterdir()}
        for name in ("one", "two")
    ]
    assert len(shards[0]) > 1 and shards[0] == shards[1]
    made = sorted(path.name for path in (tmp_path / "two" / "answers" / "journals").iterdir())
    assert made == ["0-of-2.jsonl", "1-of-2.jsonl"]
    assert (weights(tmp_path / "one") - weights(tmp_path / "two")).abs().max() < 1e-6
    assert _figures(tmp_path / "two") == pytest.approx(_figures(tmp_path / "one"), rel=1e-6, abs=1e-7)
    rows = [read_json_lines(tmp_path / name / "held_out.jsonl") for name in ("one", "two")]
    for a, b in zip(*rows, strict=True):
        assert b.get("ids") == a.get("ids") and b["nats"] == pytest.approx(a["nats"], rel=1e-5)


def _second_process(launcher: Forked) -> int:
    """The id of the process whose number is 1."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    return next(
        int(pid) for pid in children if b"\0RANK=1\0" in b"\0" + Path(f"/proc/{pid}/environ").read_bytes() + b"\0"
    )


@pytest.mark.slow
def test_when_one_process_is_killed_the_other_ends_with_the_reason(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    recipe = write_recipe(tiny_world, tmp_path, "run", training={"steps": 4000, "evaluate_every": 4000})
    begun = time.monotonic()
    launcher = Forked(*LAUNCH, str(recipe))
    wait_for(launcher, lambda: steps_done(tmp_path / "run") >= 3)
    since = time.monotonic()
    os.kill(_second_process(launcher), signal.SIGKILL)
    code, err = ended(launcher)
    assert time.monotonic() - since < 3 * (since - begun)
    assert code != 0
    reason = err.partition("ProcessLost: ")[2]
    assert "process 0 of 2" in reason and "process 1 (id" in reason and "after step" in reason, err
    assert "Signal 9 (SIGKILL)" in err  # torchrun's own table
    assert "after step 0" not in reason and not (tmp_path / "run" / "run.json").exists()
    assert err.count(" joins ") == 2 and "process 1 of 2 (local 1 on" in err


def test_an_error_in_one_process_ends_the_other_with_its_words(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    # long steps, so that the second Ctrl-C, which ends at once, comes before the end of one
    training = {"steps": 4000, "evaluate_every": 4000, "batch_size": 160, "microbatch_size": 8}
    recipe = write_recipe(tiny_world, tmp_path, "run", training=training)
    one, other = together("distillab.cli.main", "train", str(recipe))
    wait_for(one, lambda: steps_done(tmp_path / "run") >= 1)
    other.send_signal(signal.SIGINT)
    wait_for(other, lambda: "Press Ctrl-C again to stop at once" in other.written("stderr"))
    other.send_signal(signal.SIGINT)
    code, err = ended(other)
    assert code == 130, err
    code, err = ended(one)
    assert code == 1 and "interrupted by SIGINT" in err.partition("ProcessLost: ")[2], err


WATCHED_ONCE = """
import os, threading
from distillab.processes import join_processes
from distillab.runs.peers import watched_processes

join_processes(cpu=True)
before = os.listdir("/proc/self/fd"), threading.active_count()
with watched_processes():
    assert threading.active_count() == before[1] + 1
assert (os.listdir("/proc/self/fd"), threading.active_count()) == before
os._exit(0)  # without torch's farewell
"""


def test_a_watch_of_processes_leaves_no_thread_and_no_descriptor() -> None:
    """torch aborts a process that exits while a thread of Python asks its store."""
    for code, err in map(ended, together("tests.given_code", WATCHED_ONCE)):
        assert code == 0, err


@pytest.mark.slow
def test_a_run_resumes_where_its_folder_was_moved(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    """As on another machine that is given the work: every path of the recipe is relative."""
    here = tmp_path / "here"
    here.mkdir()
    for name in ("student", "teacher"):
        shutil.copytree(tiny_world[name]["path"], here / name)
    data = {**tiny_world["data"], "train": {"path": "train.jsonl"}, "held_out": {"path": "held_out.jsonl"}}
    for name in ("train", "held_out"):
        shutil.copy(tiny_world["data"][name]["path"], here / f"{name}.jsonl")
    places = {"student": {"path": "student"}, "teacher": {"path": "teacher"}, "data": data}
    training = {"steps": 40, "evaluate_every": 40, "checkpoint_every": 40}

    def recipe(output: str) -> Path:
        path = write_recipe(tiny_world, here, output, training=training, **places)
        values = YAML(typ="safe", pure=True).load(path)
        with path.open("w") as stream:
            YAML(typ="safe", pure=True).dump({**values, "output": output}, stream)
        return path

    def start(output: str, folder: Path) -> list[Forked]:
        return together("distillab.cli.main", "train", f"{output}.yaml", folder=folder)

    recipe("whole"), recipe("broken")
    assert [code for code, _ in map(ended, start("whole", here))] == [0, 0]
    processes = start("broken", here)
    wait_for(processes[0], lambda: steps_done(here / "broken") >= 5)
    processes[1].send_signal(signal.SIGUSR1)  # one is told, all stop after the same step
    results = [ended(one) for one in processes]
    assert [code for code, _ in results] == [143, 138], results
    (kept,) = (here / "broken" / "checkpoints").iterdir()
    assert {"rng_state_0.pth", "rng_state_1.pth", "seal.json"} <= {path.name for path in kept.iterdir()}
    assert kept.name == f"checkpoint-{steps_done(here / 'broken')}"
    moved = tmp_path / "elsewhere"
    here.rename(moved)
    assert not (moved / "broken" / "run.json").exists()
    assert [code for code, _ in map(ended, start("broken", moved))] == [0, 0]
    assert torch.equal(weights(moved / "broken"), weights(moved / "whole"))
    assert steps_done(moved / "broken") == 40


@pytest.mark.slow
def test_two_processes_of_one_run_stop_after_the_same_step_and_go_on(
    tiny_world: dict[str, Any], tmp_path: Path
) -> None:
    training = {"steps": 60, "checkpoint_every": 60, "evaluate_every": 20}
    recipe = write_recipe(tiny_world, tmp_path, "run", training=training)
    process = Forked(*LAUNCH, str(recipe))
    wait_for(process, lambda: steps_done(tmp_path / "run") >= 3)
    process.send_signal(signal.SIGTERM)
    code, err = ended(process)
    assert code != 0
    (kept,) = (tmp_path / "run" / "checkpoints").iterdir()
    step = int(kept.name.removeprefix("checkpoint-"))
    assert step == steps_done(tmp_path / "run") and f"run: step {step} of 60 is kept" in err, err
    assert {"rng_state_0.pth", "rng_state_1.pth", "seal.json"} <= {path.name for path in kept.iterdir()}
    on_two(recipe)
    measured = read_json_lines(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in measured if "loss" in line] == list(range(1, 61))


@pytest.mark.slow
def test_accelerate_trains_on_two_processes(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    training = {"steps": 2, "evaluate_every": 2}
    recipe = write_recipe(tiny_world, tmp_path, "run", method="sft", training=training)
    words = (
        "--multi_gpu",
        "--num_processes=2",
        "--main_process_port=0",
        "-m",
        "distillab.cli.main",
        "train",
        str(recipe),
    )
    environment = ONE_THREAD | {"ACCELERATE_USE_CPU": "true"}
    code, err = ended(Forked("accelerate.commands.launch", *words, environment=environment))
    assert code == 0, err
    assert "process 0 of 2" in err and "process 1 of 2" in err, err
    assert (tmp_path / "run" / "run.json").exists()

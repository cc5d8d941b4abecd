"""Studies and caches on a cluster of Ray: two nodes on this machine, one of which is killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from distillab import __version__
from distillab.config.study import StudyRecipe
from distillab.errors import ClusterError, ConfigError
from distillab.records import RunRecord, StudyResults, read_record
from distillab.runs.lock import held
from distillab.study.ray_workers import Node, RayWorkers, _fault, cpus_each, wait_until_seen
from distillab.study.study import Study
from tests.processes import ended, start_distillab, steps_done, wait_for

RAY_MISSING = "ray is not installed (pip install 'distillab[ray]')"
NODE = {"num_cpus": 1, "object_store_memory": 100_000_000}


def test_a_task_has_the_most_cpus_with_which_all_run_at_once() -> None:
    nodes = [Node("a", "a", 16, 4), Node("b", "b", 8, 4), Node("head", "head", 32, 0)]
    assert cpus_each(nodes, 8, gpus=1) == 2  # four on each node with GPUs; the head has none
    assert cpus_each(nodes, 4, gpus=1) == 5  # three on a, one on b
    assert cpus_each(nodes, 4, gpus=0.5) == 5
    assert cpus_each(nodes, 3, gpus=0) == 16
    assert [node.fits(1, 0.5) for node in nodes] == [8, 8, 0]


def test_a_node_without_the_folder_its_locks_or_this_version_is_found(tmp_path: Path) -> None:
    here = str(Path.cwd())
    fault = partial(_fault, here, version=__version__)
    with held(tmp_path, ".lock-x"):
        assert fault(str(tmp_path), ".lock-x") is None
        assert "is not the one of" in str(fault(str(tmp_path), ".lock-y"))
    (tmp_path / ".lock-x").touch()
    assert "locks of one machine only" in str(fault(str(tmp_path), ".lock-x"))
    assert fault(str(tmp_path / "none"), ".lock-x") == "no such folder"
    assert _fault(str(tmp_path / "none"), "x", "x", __version__) == f"no folder {tmp_path / 'none'}"
    assert _fault(here, "x", "x", "0.0") == f"distillab {__version__}, not 0.0"


def test_results_that_come_into_sight_later_are_waited_for(tmp_path: Path) -> None:
    looks = iter([False, True])
    wait_until_seen(lambda: next(looks), tmp_path)
    assert list(looks) == []


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"(?s)needs the package ray.*distillab\[ray\]"):
        RayWorkers(tmp_path, number=1, gpus=None)


def test_an_address_without_a_cluster_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason=RAY_MISSING)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(ClusterError, match=r"(?s)no cluster of Ray.*RAY_ADDRESS=127.0.0.1:9.*ray start"):
        RayWorkers(tmp_path, number=1, gpus=None)


def test_gpus_without_ray_are_refused(study_recipe: StudyRecipe) -> None:
    with pytest.raises(ConfigError, match=r"(?s)Only Ray gives GPUs.*--engine ray"):
        Study(study_recipe.model_copy(update={"gpus_per_run": 1.0}), reproduce="x").require_runnable()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head node and another, with a CPU each, started as in the background of a script: they ignore SIGINT."""
    pytest.importorskip("ray", reason=RAY_MISSING)
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    from ray.cluster_utils import Cluster

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    cluster.add_node(**NODE)
    signal.signal(signal.SIGINT, before)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def joined(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that this test starts find the cluster."""
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)


def _write(values: dict[str, Any], path: Path, **changes: Any) -> str:
    with path.open("w") as stream:
        YAML(typ="safe", pure=True).dump({**values, **changes}, stream)
    return str(path)


@pytest.mark.usefixtures("joined")
def test_a_cache_is_built_by_two_nodes_as_by_one_process(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    run = {key: value for key, value in tiny_world.items() if key != "seeds"} | {"method": "logits"}
    folders = {engine: tmp_path / engine for engine in ("local", "ray")}
    for engine, folder in folders.items():
        cache = {"folder": str(folder), "rows_per_shard": 16}
        recipe = _write(run, tmp_path / f"{engine}.yaml", cache=cache, output=str(tmp_path / "run"))
        code, err = ended(start_distillab("cache", "build", recipe, "--engine", engine))
        assert code == 0, err
    files = {
        engine: {path.relative_to(folder): path.read_bytes() for path in folder.rglob("shards/*")}
        for engine, folder in folders.items()
    }
    assert len(files["local"]) > 4 and files["local"] == files["ray"]


@pytest.mark.usefixtures("joined")
def test_a_terminated_study_ends_its_tasks_and_they_keep_their_steps(
    tiny_world: dict[str, Any], tmp_path: Path
) -> None:
    training = {**tiny_world["training"], "steps": 2000, "checkpoint_every": 2000, "evaluate_every": 2000}
    recipe = _write(
        {**tiny_world, "arms": ["sft"], "training": training, "workers": 2},
        tmp_path / "study.yaml",
        output=str(tmp_path / "study"),
    )
    study = start_distillab("compare", recipe, "--no-doctor", "--engine", "ray")
    runs = [tmp_path / "study" / "runs" / "sft" / f"seed{seed}" for seed in (0, 1)]
    wait_for(study, lambda: all(steps_done(run) >= 3 for run in runs))
    study.send_signal(signal.SIGTERM)
    code, err = ended(study)
    assert code == 143 and "Traceback" not in err, err
    for run in runs:
        (kept,) = (run / "checkpoints").iterdir()
        step = int(kept.name.removeprefix("checkpoint-"))
        assert step == steps_done(run) and f"sft-{run.name}: step {step} of 2000 is kept" in err
        assert not (run / ".lock").exists()


@pytest.mark.usefixtures("joined")
def test_a_study_outlives_a_node_with_the_records_of_one_machine(
    cluster: Any, tiny_world: dict[str, Any], tmp_path: Path
) -> None:
    training = {**tiny_world["training"], "steps": 150, "checkpoint_every": 10, "evaluate_every": 50}
    values = {**tiny_world, "arms": ["sft", "logits"], "training": training}
    torch.set_num_threads(1)  # as in the tasks: sums depend on the number of threads
    alone = Study(StudyRecipe(**values, output=str(tmp_path / "local")), reproduce="x").run()

    recipe = _write(values, tmp_path / "study.yaml", workers=2, output=str(tmp_path / "ray"))
    study = start_distillab("compare", recipe, "--no-doctor", "--engine", "ray")
    runs = [tmp_path / "ray" / "runs" / arm / f"seed{seed}" for arm in ("sft", "logits") for seed in (0, 1)]
    starts = _Starts(runs, apart_from=study.pid)
    first = [run for run in runs if run.name == "seed0"]
    wait_for(study, lambda: all(steps_done(run) >= 25 for run in first))
    cluster.remove_node(cluster.worker_nodes.copy().pop(), allow_graceful=False)
    code, err = ended(study)
    assert code == 0, err
    assert "The first comparison is in" in study.written("stdout")  # it is shown while runs are left
    page = (tmp_path / "ray" / "report.html").read_text(encoding="utf-8")
    assert "Not finished" not in page

    assert sorted(len(pids) for pids in starts.stop().values()) == [1, 1, 1, 2]  # one run was on the lost node
    for run in runs:
        name = run.relative_to(tmp_path / "ray")
        here, there = (read_record(RunRecord, tmp_path / root / name / "run.json") for root in ("ray", "local"))
        left_out = {"cost", "config", "caches", "environment"}
        assert here.model_dump(exclude=left_out) == there.model_dump(exclude=left_out)  # with the weights' hash
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines if "terms" in line] == list(range(1, 151))
    results = read_record(StudyResults, tmp_path / "ray" / "results.json")
    assert [arm.evaluations for arm in results.arms] == [arm.evaluations for arm in alone.arms]


class _Starts:
    """Watch which processes hold the locks of some runs, apart from the study's own process."""

    def __init__(self, runs: list[Path], *, apart_from: int) -> None:
        self._seen: dict[Path, set[int]] = {run: set() for run in runs}
        self._apart_from, self._ended = apart_from, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> dict[Path, set[int]]:
        """Return the processes of each run."""
        self._ended.set()
        self._thread.join()
        return self._seen

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            for run, pids in self._seen.items():
                with suppress(FileNotFoundError, ValueError):  # it is free, or is being written
                    pids.add(json.loads((run / ".lock").read_text())["pid"])
                pids.discard(self._apart_from)

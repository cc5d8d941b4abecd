"""Run the jobs of a study as tasks of Ray on the nodes of a cluster, in place of the processes of one machine.

Ray starts each job in a process on a node with free CPUs and GPUs. Where a node is lost it starts the job on
another, which resumes from the files of the first, as the same command does. So all nodes need one folder for the
output, under one path.
"""

from __future__ import annotations

import os
import signal
import socket
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillab import __version__
from distillab.errors import ClusterError, ConfigError
from distillab.interruption import (
    Interrupted,
    defer_interrupt,
    handle_signals,
    interrupt_requested,
    restored_handlers,
)
from distillab.progress import Progress
from distillab.runs.lock import IN_USE, held, require_free
from distillab.study.workers import Job, prepare_process

_RETRIES = 3  # of a job whose process or node was lost
_LOOK_EVERY_S = 0.2
_STORE_BYTES = 100_000_000  # Ray's store of objects on a cluster of this machine; our objects are recipes
# a file server keeps the lock of a lost node for its lease (90 s in Linux's NFS), and its clients what they know of a
# folder for up to 60 s
_FILE_SERVER_S = 180.0


@dataclass(frozen=True)
class Node:
    """A node of the cluster and what Ray can give out of it."""

    id: str
    name: str
    cpus: int
    gpus: float

    def fits(self, cpus: int, gpus: float) -> int:
        """Return how many tasks with so many CPUs and GPUs run on it at once."""
        by_cpu = self.cpus // cpus
        return min(by_cpu, int(self.gpus / gpus)) if gpus else by_cpu


class RayWorkers:
    """The tasks of one study on a cluster: that of RAY_ADDRESS, or one of this machine alone.

    Args:
        folder: that all nodes must see.
        number: of tasks at the same time; None: one for each GPU, or without GPUs one a node.
        gpus: of a task, a fraction of one too; None: one if the cluster has any.
    Raises:
        ConfigError: ray is not installed.
        ClusterError: there is no cluster at RAY_ADDRESS, or no node has that many GPUs.
    """

    def __init__(self, folder: Path, *, number: int | None, gpus: float | None) -> None:
        self._ray = _connected()
        self._folder, self._checked = folder, False
        nodes = self._nodes()
        self._gpus = (1.0 if any(node.gpus for node in nodes) else 0.0) if gpus is None else gpus
        at_most = sum(node.fits(1, self._gpus) for node in nodes)
        if not at_most:
            raise ClusterError(
                "No node of the cluster has the GPUs that one run needs.",
                where="gpus_per_run",
                facts=[f"{self._gpus:g} GPUs for a run", *(f"{one.name}: {one.gpus:g} GPUs" for one in nodes)],
                fix="set fewer, or start a node with more",
            )
        self.number = number or (at_most if self._gpus else len(nodes))
        self._cpus = cpus_each(nodes, min(self.number, at_most), self._gpus)

    def __enter__(self) -> RayWorkers:
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing: a process of Ray ends with its task, and the connection with this program."""

    def run(self, jobs: Sequence[Job], meanwhile: Callable[[], None] = lambda: None) -> None:
        """Run all jobs on the cluster.

        Args:
            jobs: picklable (a `functools.partial` of a module's function).
            meanwhile: called here whenever one has ended. Not more often: a client of a file server can take a file
                that it has looked for as missing for a while.
        Raises:
            The first error of any job; no further job is started.
            ClusterError: a node does not see the folder, or a job was lost with its node too often.
            Interrupted: a signal came; every task has saved its work, and has ended.
        """
        if jobs and not self._checked:
            self._require_shared_folder()
            self._checked = True
        # with GPUs Ray ends the process after its job, which frees them
        resources = {"num_cpus": self._cpus, "num_gpus": self._gpus}
        remote = self._ray.remote(**resources, max_retries=_RETRIES, retry_exceptions=False)(_do)
        waiting, failed = list(jobs), None
        running: list[Any] = []
        with Progress("jobs on the cluster", total=len(jobs), unit="jobs") as progress, defer_interrupt():
            while running or (waiting and failed is None):
                while waiting and failed is None and len(running) < self.number:
                    running.append(remote.remote(waiting.pop(0), str(Path.cwd()), self._cpus))
                done, running = self._ray.wait(running, timeout=_LOOK_EVERY_S)
                for task in done:
                    failed = failed or self._error(task)
                    progress.advance()
                if done:
                    meanwhile()
                if (number := interrupt_requested()) is not None:
                    raise Interrupted(number, *self._ended(running))
        if failed is not None:
            raise failed

    def _error(self, task: Any) -> Exception | None:
        """Return the error of a task that has ended; None: it is done."""
        errors = self._ray.exceptions
        try:
            self._ray.get(task)
        except errors.RayTaskError as error:
            if not isinstance(error.cause, Exception):
                return error
            error.cause.__cause__ = error  # it has the traceback of the node
            return error.cause
        except errors.RayError as error:
            return ClusterError(
                f"A job was lost with its process or its node {_RETRIES + 1} times.",
                facts=str(error).splitlines()[:3],
                fix="look into Ray's logs of that node (memory, GPU), then run the same command: it resumes",
            )
        return None

    def _ended(self, tasks: Sequence[Any]) -> list[str]:
        """Interrupt tasks, wait for their end, and return what they have kept."""
        for task in tasks:
            self._ray.cancel(task)
        kept: list[str] = []
        for task in tasks:
            with suppress(self._ray.exceptions.RayError):  # it had not begun
                kept += self._ray.get(task)
        return kept

    def _nodes(self) -> list[Node]:
        alive = [one for one in self._ray.nodes() if one["Alive"]]
        return [
            Node(
                one["NodeID"],
                f"{one['NodeManagerHostname']} ({one['NodeManagerAddress']})",
                int(one["Resources"].get("CPU", 0)),
                one["Resources"].get("GPU", 0.0),
            )
            for one in alive
        ]

    def _require_shared_folder(self) -> None:
        """Check from every node that it sees the folder, sees a lock in it, and has this version of distillab."""
        pinned = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        probe, lock = self._ray.remote(num_cpus=0)(_fault), f".lock-{uuid.uuid4().hex}"
        nodes = self._nodes()
        with held(self._folder, lock):
            asked = [
                probe.options(scheduling_strategy=pinned(node.id, soft=False)).remote(
                    str(Path.cwd()), str(self._folder), lock, __version__
                )
                for node in nodes
            ]
            found = self._ray.get(asked)
        faults = [f"{node.name}: {fault}" for node, fault in zip(nodes, found, strict=True) if fault is not None]
        if faults:
            raise ClusterError(
                "All nodes must see the output folder under one path, and run one version of distillab.",
                where=str(self._folder.absolute()),
                facts=faults[:8],
                fix="start distillab in a folder that all nodes share (NFS, Lustre mounted with flock), and set output "
                "in it",
            )


def wait_until_seen(is_there: Callable[[], bool], folder: Path) -> None:
    """Wait until this machine sees the files that other nodes have written.

    A client of a file server can take a file that it looked for before as missing for up to a minute.

    Raises:
        ClusterError: it does not see them in time.
    """
    until = time.monotonic() + _FILE_SERVER_S
    while not is_there():
        if time.monotonic() > until:
            raise ClusterError(
                "All jobs are done, but their results are not seen here.",
                where=str(folder.absolute()),
                fix="set output in a folder that all nodes share, then run the same command again",
            )
        time.sleep(1.0)


def cpus_each(nodes: Sequence[Node], tasks: int, gpus: float) -> int:
    """Return the most CPUs of a task with which so many tasks run on the nodes at once.

    Args:
        tasks: no more than fit with one CPU each.
        gpus: of a task.

    >>> cpus_each([Node("a", "a", 8, 0), Node("b", "b", 4, 0)], 3, gpus=0)
    4
    """
    most = max(node.cpus for node in nodes)
    return next(n for n in range(most, 0, -1) if sum(node.fits(n, gpus) for node in nodes) >= tasks)


def _connected() -> Any:
    """Return the module ray, connected."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # on a cluster of this machine; by default it is 15
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise ConfigError(
            "The engine ray needs the package ray.", where="--engine ray", fix="pip install 'distillab[ray]'"
        ) from error
    if ray.is_initialized():
        return ray
    address = os.environ.get("RAY_ADDRESS")
    try:
        with restored_handlers():  # Ray sets its own
            if address is None:
                ray.init(
                    address="local", object_store_memory=_STORE_BYTES, include_dashboard=False, log_to_driver=False
                )
            else:
                _require_answer(address)
                ray.init(address=address, log_to_driver=False)
    except (OSError, RuntimeError) as error:
        raise ClusterError(
            "There is no cluster of Ray at this address.",
            where=f"RAY_ADDRESS={address}",
            facts=str(error).splitlines()[:1],
            fix="start one (ray start --head; on the other nodes ray start --address=HOST:PORT); or unset RAY_ADDRESS, "
            "and this machine is the cluster",
        ) from error
    return ray


def _require_answer(address: str) -> None:
    """Raise an OSError if nothing answers at HOST:PORT; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10.0).close()


def _do(job: Job, directory: str, cpus: int) -> tuple[str, ...]:
    """Do a job in a process of Ray; return what it has kept if this study was interrupted.

    A signal from elsewhere than the study means that the node goes away: what is done is saved, and the process ends
    as one that was lost, so that Ray starts the job on another node.
    """
    os.chdir(directory)
    prepare_process(cpus)
    try:
        with handle_signals(quiet=True, sent=signal.SIGINT):  # by `ray.cancel`
            _do_when_free(job)
    except Interrupted as stop:
        if stop.signal != signal.SIGINT:  # which `RayWorkers` sends
            os._exit(1)
        return stop.kept
    return ()


def _do_when_free(job: Job) -> None:
    """Do a job; wait for the lock of a process that was lost, which its file server still keeps."""
    until = time.monotonic() + _FILE_SERVER_S
    while True:
        try:
            job()
            return
        except ConfigError as error:
            if error.rule != IN_USE or time.monotonic() > until:
                raise
        time.sleep(1.0)


def _fault(directory: str, folder: str, lock: str, version: str) -> str | None:
    """Return what is wrong with the folder as this node sees it, or None."""
    if version != __version__:
        return f"distillab {__version__}, not {version}"
    if not Path(directory).is_dir():
        return f"no folder {directory}"
    os.chdir(directory)
    if not (Path(folder) / lock).is_file():
        return f"the folder is not the one of {socket.gethostname()}" if Path(folder).is_dir() else "no such folder"
    try:
        require_free(Path(folder), lock)
    except ConfigError:
        return None
    return "a lock that another node holds is not seen: the file system has locks of one machine only"

"""Run independent jobs in several processes of one machine.

Two small models train faster side by side on one thread each than one after another on two threads.
A job writes its result to disk, so that a finished job is never repeated.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack
from multiprocessing import resource_tracker
from multiprocessing.context import BaseContext
from multiprocessing.forkserver import ensure_running
from typing import Any, TypeVar

import torch

from distillab.interruption import Interrupted, allow_interrupt, defer_interrupt, handle_signals, interrupt_requested
from distillab.progress import plain_lines
from distillab.runs.environment import usable_cpus

Job = Callable[[], object]
_LOOK_EVERY_S = 0.2
_handlers = ExitStack()
_Owner = TypeVar("_Owner")
_owners: list[Any] = []


class Workers:
    """Processes of one study; they start with its first jobs and stay, with what they have loaded, until the end.

    Args:
        number: of processes.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._started: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        if self._started is not None:
            self._started.shutdown(wait=True, cancel_futures=True)

    def run(self, jobs: Sequence[Job], meanwhile: Callable[[], None] = lambda: None) -> None:
        """Run all jobs.

        Args:
            jobs: picklable (a `functools.partial` of a module's function).
            meanwhile: called here again and again while they run, and once when all are done.
        Raises:
            The first error of any job; no further job is started.
            Interrupted: a signal came; every worker has saved its work, and has ended.
        """
        pool = self._started = self._started or self._pool()
        futures = [pool.submit(_do, job) for job in jobs]
        try:
            with defer_interrupt():
                done = _wait(futures, meanwhile)
        except (KeyboardInterrupt, Interrupted):  # a second signal, or no handler of distillab
            for child in multiprocessing.active_children():
                child.kill()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        if any(future.exception() is not None for future in done):
            pool.shutdown(wait=True, cancel_futures=True)
        for future in done:
            future.result()
        meanwhile()

    def _pool(self) -> ProcessPoolExecutor:
        given = "OMP_NUM_THREADS" in os.environ  # of each process
        threads = torch.get_num_threads() if given else max(1, usable_cpus() // self._number)
        return ProcessPoolExecutor(self._number, mp_context=_context(), initializer=_start, initargs=(threads,))


def run_jobs(jobs: Sequence[Job], *, workers: int) -> None:
    """Run all jobs in `workers` fresh processes; the rest as `Workers.run`."""
    if jobs:
        with Workers(workers) as fresh:
            fresh.run(jobs)


def leave_imports_alone() -> None:
    """Take what is imported by now out of garbage collection, which each trainer does when it begins.

    For programs of distillab; the process of a notebook is its user's.
    """
    gc.freeze()


def prepare_process(threads: int) -> None:
    """Prepare a process that does jobs of a study beside others; it forgets what an earlier study has loaded in it."""
    _owners.clear()
    leave_imports_alone()
    torch.set_num_threads(threads)
    plain_lines()  # several bars on one terminal would overwrite each other


def do_in_worker(owner: _Owner, job: Callable[[_Owner], object]) -> None:
    """Run a job of an owner in a worker process, which keeps the owner of its first job with everything loaded."""
    if not _owners:
        _owners.append(owner)
    job(_owners[0])


def _wait(futures: Sequence[Future[None]], meanwhile: Callable[[], None]) -> list[Future[None]]:
    """Return the futures that are done when all are, or when one has failed.

    Raises:
        Interrupted: a signal came to this process and to the workers, which have ended.
    """
    pending = set(futures)
    while pending and interrupt_requested() is None:
        done, pending = wait(pending, timeout=_LOOK_EVERY_S, return_when=FIRST_EXCEPTION)
        if any(future.exception() is not None for future in done):
            break
        meanwhile()
    number = interrupt_requested()
    if number is not None:
        for future in futures:
            future.cancel()
        for child in multiprocessing.active_children():
            child.terminate()
        done, _ = wait([future for future in futures if not future.cancelled()])
        errors = [future.exception() for future in done]
        raise Interrupted(number, *(line for error in errors if isinstance(error, Interrupted) for line in error.kept))
    return [future for future in futures if future.done()]


def _context() -> BaseContext:
    """Return how workers start: each by itself, or on a CPU as forks of one process that has the imports done.

    That process has no threads yet: a fork would inherit torch's in an undefined state. And no fork can use a GPU that
    was used before, which some libraries do when they are imported.
    """
    if sys.platform != "linux" or torch.accelerator.is_available():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["distillab.study.study"])
    # a scheduler sends SIGTERM to all processes of a job: the one that is forked must not end before its forks
    resource_tracker.ensure_running()  # it unblocks SIGTERM when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def _start(threads: int) -> None:
    if sys.platform == "linux":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # see `_context`
    prepare_process(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # until this process ends; it waits between two jobs, and a signal must not end it with a traceback
    _handlers.enter_context(handle_signals(quiet=True, sent=signal.SIGTERM))
    _handlers.enter_context(defer_interrupt())


def _do(job: Job) -> None:
    with allow_interrupt():
        job()


def _end_with_parent() -> None:
    """End with the parent, so that no worker of a killed study writes into its folder after a restart."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # a worker has one study
    parent.join()
    os._exit(1)

"""Run independent jobs in several processes of one machine.

Two small models train faster side by side on one thread each than one after another on two threads.
A job writes its result to disk, so that a finished job is never repeated.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack
from typing import Any, TypeVar

import torch

from distillab.interruption import Interrupted, allow_interrupt, defer_interrupt, handle_signals, interrupt_requested
from distillab.progress import plain_lines

Job = Callable[[], None]
_LOOK_EVERY_S = 0.2
_handlers = ExitStack()
_Owner = TypeVar("_Owner")
_owners: list[Any] = []


def run_jobs(jobs: Sequence[Job], *, workers: int) -> None:
    """Run all jobs in `workers` fresh processes.

    Args:
        jobs: picklable (a `functools.partial` of a module's function).
    Raises:
        The first error of any job; no further job is started.
        Interrupted: a signal came; every worker has saved its work, and has ended.
    """
    if not jobs:
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    # spawn: a forked process would inherit torch's thread pools in an undefined state
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(threads,)) as pool:
        futures = [pool.submit(_do, job) for job in jobs]
        try:
            with defer_interrupt():
                done = _wait(futures)
        except (KeyboardInterrupt, Interrupted):  # a second signal, or no handler of distillab
            for child in multiprocessing.active_children():
                child.kill()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        if any(future.exception() is not None for future in done):
            pool.shutdown(wait=True, cancel_futures=True)
        for future in done:
            future.result()


def do_in_worker(owner: _Owner, job: Callable[[_Owner], object]) -> None:
    """Run a job of an owner in a worker process, which keeps the owner of its first job with everything loaded."""
    if not _owners:
        _owners.append(owner)
    job(_owners[0])


def _wait(futures: Sequence[Future[None]]) -> list[Future[None]]:
    """Return the futures that are done when all are, or when one has failed.

    Raises:
        Interrupted: a signal came to this process and to the workers, which have ended.
    """
    pending = set(futures)
    while pending and interrupt_requested() is None:
        done, pending = wait(pending, timeout=_LOOK_EVERY_S, return_when=FIRST_EXCEPTION)
        if any(future.exception() is not None for future in done):
            break
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


def _start(threads: int) -> None:
    torch.set_num_threads(threads)
    plain_lines()  # several bars on one terminal would overwrite each other
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # until this process ends; it waits between two jobs, and a signal must not end it with a traceback
    _handlers.enter_context(handle_signals(quiet=True))
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

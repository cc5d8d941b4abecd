"""Runs independent jobs in several processes of one machine.

Two small models train faster side by side on one thread each than one after another on two threads.
A job leaves its result on disk, so a job that is done is never done again.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait

import torch

from distillab.progress import plain_lines

Job = Callable[[], None]


def run_jobs(jobs: Sequence[Job], *, workers: int) -> None:
    """Run all jobs in `workers` fresh processes.

    Args:
        jobs: picklable (a `functools.partial` of a module's function).
    Raises:
        The first error of any job; the others are not started any more.
    """
    if not jobs:
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    # spawn: a forked process would inherit torch's thread pools in an undefined state
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(threads,)) as pool:
        futures = [pool.submit(job) for job in jobs]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        if any(future.exception() is not None for future in done):
            pool.shutdown(wait=True, cancel_futures=True)
        for future in done:
            future.result()


def _start(threads: int) -> None:
    torch.set_num_threads(threads)
    plain_lines()  # several bars on one terminal would overwrite each other
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed study must leave nobody behind who goes on writing into its folder when it is started again."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # a worker has one
    parent.join()
    os._exit(1)

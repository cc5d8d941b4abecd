"""Run as a process of its own by `test_workers`: a worker that says which process it is, stays, and saves."""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from pathlib import Path

from distillab.interruption import Interrupted, defer_interrupt, handle_signals, interrupt_requested
from distillab.study.workers import run_jobs


def hold(folder: Path) -> None:
    (folder / "written").write_text(str(os.getpid()))
    (folder / "written").rename(folder / "pid")
    with defer_interrupt():
        while interrupt_requested() is None:
            time.sleep(0.01)
        time.sleep(0.5)  # as long as the writing of a checkpoint
        (folder / "saved").touch()


def main(folder: Path) -> int:
    try:
        with handle_signals():
            run_jobs([partial(hold, folder)], workers=1)
    except Interrupted as stop:
        return stop.exit_code
    return 0


if __name__ == "__main__":
    os.setsid()  # a test sends signals to this process and its workers, and to no other
    # by its name: a worker has another main module
    from tests.study import holding_study

    sys.exit(holding_study.main(Path(sys.argv[1])))

"""Programs that tests start and interrupt.

A program of distillab is forked from a process that has `tests/imported.py` imported: its start costs a tenth of a
second, not five seconds. For the rest it is a process as any other, with its own number, signals, files and death.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path

from torch.distributed import TCPStore

ROOT = Path(__file__).resolve().parent.parent
LIMIT_S = 240
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
# A test suite in the background of a shell (`nohup make test &`) ignores Ctrl-C, and so would every program it starts.
_DEFAULT_SIGNALS = (
    "import os, signal, sys; [signal.signal(one, signal.SIG_DFL) for one in (signal.SIGINT, signal.SIGTERM)]; "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.imported"])


class Forked:
    """A module that runs as `python -m` would run it, in a forked process; its output is kept."""

    def __init__(
        self, module: str, *words: str, environment: Mapping[str, str] = ONE_THREAD, folder: Path = ROOT
    ) -> None:
        self._output = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, self._output)
        self._command = [module, *words]
        arguments = (module, words, {**os.environ, **environment}, self._output, folder)
        self._process = FORKS.Process(target=_become, args=arguments)
        self._process.start()
        self.store: TCPStore | None = None  # it lives as long as the processes that need it
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """What `subprocess.Popen` has: minus the signal that killed it, or None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def written(self, stream: str) -> str:
        """What it has written to "stdout" or "stderr" so far."""
        path = Path(self._output, stream)
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def communicate(self, timeout: float = LIMIT_S) -> tuple[str, str]:
        """Wait for its end; return its standard output and standard error."""
        self._process.join(timeout)
        if self.returncode is None:
            self.kill()
            raise subprocess.TimeoutExpired(self._command, timeout, self.written("stdout"), self.written("stderr"))
        return self.written("stdout"), self.written("stderr")


Started = Forked | subprocess.Popen[str]


def _become(module: str, words: tuple[str, ...], environment: dict[str, str], output: str, folder: Path) -> None:
    """Run a module as the program of this process."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        with Path(output, name).open("wb") as stream:
            os.dup2(stream.fileno(), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(
        signal.SIG_UNBLOCK, {signal.SIGTERM}
    )  # blocked where distillab began the process it is forked from
    import torch  # it has read OMP_NUM_THREADS already

    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def start_python(*arguments: str) -> subprocess.Popen[str]:
    """Python in a process of its own that heeds signals as one does which a user starts; its output is kept."""
    return subprocess.Popen(
        [sys.executable, "-c", _DEFAULT_SIGNALS, *arguments],
        env=os.environ | ONE_THREAD,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_distillab(*words: str) -> Forked:
    """The command line in a process of its own."""
    return Forked("distillab.cli.main", *words)


def start_code(code: str, *words: str) -> Forked:
    """Code in a process of its own, as `python -c`."""
    return Forked("tests.given_code", code, *words)


def together(module: str, *words: str, processes: int = 2, folder: Path = ROOT) -> list[Forked]:
    """A module in processes that find each other by torch.distributed, as torchrun starts them."""
    # torchrun too holds the store, by which they find each other, in a process of its own
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
    }
    started = []
    for rank in map(str, range(processes)):
        own = ONE_THREAD | shared | {"RANK": rank, "LOCAL_RANK": rank}
        started.append(Forked(module, *words, environment=own, folder=folder))
        started[-1].store = store
    return started


def wait_for(process: Started, ready: Callable[[], bool]) -> None:
    """Wait until something is so; a process that ends before fails the test. A test that fails leaves none behind."""
    deadline = time.monotonic() + LIMIT_S
    try:
        while not ready():
            assert process.poll() is None, process.communicate()[1][-2000:]
            assert time.monotonic() < deadline
            time.sleep(0.005)
    except BaseException:
        process.kill()
        process.communicate()
        raise


def ended(process: Started) -> tuple[int, str]:
    """Exit code and standard error, once it has ended."""
    _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode is not None
    return process.returncode, err


def steps_done(run: Path) -> int:
    """Steps that a run has measured so far."""
    path = run / "metrics.jsonl"
    return path.read_text().count('"terms"') if path.exists() else 0

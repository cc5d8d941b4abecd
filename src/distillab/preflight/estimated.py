"""What an estimate holds: memory, disk, tokens and hours of the arms of a recipe on devices of a kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from distillab.config.served import ServerConfig
from distillab.preflight.devices import Device
from distillab.preflight.machine import Weights
from distillab.preflight.memory import RunMemory

EVALUATION = "evaluation of "
UTILISATION = 0.4
"""The share of a device's peak that training reaches."""


@dataclass(frozen=True)
class RunEstimate:
    """One arm: what each of its runs takes.

    Attributes:
        student_tokens, scored_tokens: that the student reads in training, and that are scored.
        teacher_tokens: that the teacher reads while the student is trained.
        training, evaluation: seconds; training on all processes over which it is divided.
        processes: over which it is divided; the memory is that of one.
    """

    name: str
    runs: int
    processes: int
    memory: RunMemory
    student_tokens: float
    scored_tokens: float
    teacher_tokens: float
    training: float
    evaluation: float
    weights: Weights


@dataclass(frozen=True)
class Asked:
    """Tokens that a server reads, and that it generates at most; what they cost by the recipe's prices, if it has any.

    A server can count more: some forms of API read a row several times to score it.
    """

    read: int
    written: int
    money: float | None

    @classmethod
    def of(cls, server: ServerConfig, read: float, written: int = 0) -> Asked:
        """Return these tokens with their price."""
        prices, read = server.prices, round(read)
        money = None if prices is None else prices.of(prompt=read, cached=0, completion=written)
        return cls(read, written, money)


@dataclass(frozen=True)
class Signals:
    """What is stored of a teacher on training rows.

    Attributes:
        tokens, bytes: of the rows, and of what is stored of them.
        once: bytes that are stored once, the teacher's head.
        seconds: of the teacher, on one device of each kind.
        weights: bytes of the teacher.
        reading: bytes a second that a run on one device reads, at most.
    """

    tokens: int
    bytes: int
    once: int
    seconds: dict[str, float]
    weights: int
    reading: float


@dataclass
class Estimate:
    """A recipe on one or several devices of a kind.

    Attributes:
        devices: how many; each has its own runs, and its share of the teachers' signals and answers.
        runs: the arms, and the corrections of teachers.
        together: how many runs go on at the same time on a device.
        zero: the processes over which DeepSpeed divides a run.
        shared: what is made once -> seconds.
        cache_bytes: of the teachers' signals.
        signals: of the teachers on training rows.
        asked: what servers are asked for, each once.
    """

    device: Device
    devices: int = 1
    together: int = 1
    zero: int = 1
    runs: list[RunEstimate] = field(default_factory=list)
    shared: dict[str, float] = field(default_factory=dict)
    cache_bytes: int = 0
    signals: dict[str, Signals] = field(default_factory=dict)
    asked: dict[str, Asked] = field(default_factory=dict)

    @property
    def memory_bytes(self) -> int:
        """Of the largest runs at the same time."""
        return max(run.memory.total for run in self.runs) * self.together

    @property
    def disk(self) -> dict[str, int]:
        """What is written -> bytes."""
        return {
            "teacher signals": self.cache_bytes,
            "checkpoints": self.together * 2 * max(run.weights.checkpoint for run in self.runs),
            "students": sum(run.runs * run.weights.student for run in self.runs),
        }

    @property
    def seconds(self) -> float:
        """All together, one after another."""
        return sum(self._of_runs) + sum(self.shared.values())

    @property
    def side_by_side(self) -> float:
        """Seconds on all devices: first what is shared, of which evaluations are not divided, then a run a device."""
        whole = [seconds for name, seconds in self.shared.items() if name.startswith(EVALUATION)]
        divided = (sum(self.shared.values()) - sum(whole)) / self.devices
        return longest_first([*[divided] * self.devices, *whole], self.devices) + longest_first(
            self._of_runs, self.devices
        )

    @property
    def _of_runs(self) -> list[float]:
        return [run.training + run.evaluation for run in self.runs for _ in range(run.runs)]


def longest_first(jobs: Sequence[float], devices: int) -> float:
    """Return the time of jobs that are started longest first, each on the device that is free first.

    >>> longest_first([3, 2, 2, 1], 2)
    4.0
    """
    ends = [0.0] * devices
    for job in sorted(jobs, reverse=True):
        ends[ends.index(min(ends))] += job
    return max(ends)

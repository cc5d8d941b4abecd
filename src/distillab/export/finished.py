"""Read a finished run, and the study that it lies in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillab.config.methods import METHODS, Method
from distillab.errors import DataError
from distillab.models.weights import ADAPTER_CONFIG
from distillab.paths import is_local
from distillab.records import RESULTS, ArmResult, RunRecord, StudyResults, read_record, read_study
from distillab.runs.folder import RECORD, STUDENT, require_unchanged

_AGAIN = "restore the folder from a copy, or run the recipe again"


@dataclass(frozen=True)
class FinishedRun:
    """A run whose files are those of its record.

    Attributes:
        study: its study's results, where it lies in the folder of one.
        arm: its arm there.
    """

    folder: Path
    record: RunRecord
    study: StudyResults | None
    arm: ArmResult | None

    @property
    def student(self) -> Path:
        """The folder with the trained student."""
        return self.folder / STUDENT

    @property
    def has_adapters(self) -> bool:
        """Whether the adapters alone were saved, without the weights under them."""
        return (self.student / ADAPTER_CONFIG).is_file()

    @property
    def method(self) -> Method | None:
        """The named method; None: its terms are the recipe's own."""
        return METHODS.get(self.record.method)

    @property
    def settings(self) -> dict[str, Any]:
        """The student's settings."""
        found: dict[str, Any] = self.record.config["student"]
        return found

    @property
    def base(self) -> str | None:
        """Hub id of the model that the student began as; None: it is on a disk or in memory, or had random weights."""
        path = str(self.settings["path"])
        return None if self.settings["init"] == "random" or is_local(path) or ":" in path else path


def read_finished_run(folder: Path) -> FinishedRun:
    """Read a run's record, check its files against it, and look for its study.

    Raises:
        DataError: the folder holds no finished run, or its files have changed since.
    """
    if not (folder / RECORD).is_file():
        several = sorted(found.parent for found in folder.glob("runs/*/*/run.json"))
        raise DataError(
            "The folder holds no finished run.",
            where=str(folder),
            facts=[f"there is no {RECORD}" if folder.is_dir() else "there is no such folder"],
            fix=f"name one run of this study: {several[0]}" if several else "give the output folder of distillab train",
        )
    record = read_record(RunRecord, folder / RECORD, fix=_AGAIN)
    require_unchanged(folder, record.files, fix=_AGAIN)
    study = _study_of(folder.resolve())
    arms = [] if study is None else [arm for arm in study.arms if _is_of(record, arm)]
    return FinishedRun(folder, record, study if arms else None, arms[0] if arms else None)


def _study_of(run: Path) -> StudyResults | None:
    """Return the results of STUDY for STUDY/runs/ARM/seedN; None where they are not there."""
    if len(run.parents) < 3 or run.parents[1].name != "runs":
        return None
    study = run.parents[2]
    return read_study(study) if (study / RESULTS).is_file() else None


def _is_of(record: RunRecord, arm: ArmResult) -> bool:
    return (
        arm.name == record.arm
        and record.seed in arm.seeds
        and arm.evaluations[arm.seeds.index(record.seed)].nats_per_token == record.evaluation.nats_per_token
    )

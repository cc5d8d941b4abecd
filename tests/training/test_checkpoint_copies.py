"""Copies of checkpoints: what is there is what was sealed, or it is not read; `tests/runs` kills whole runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from distillab.errors import ConfigError, DataError, StorageError
from distillab.training.checkpoint_copies import CheckpointCopies
from distillab.training.checkpoints import begin, checkpoint_folder, newest_checkpoint, prefix_of, seal, writing_folder
from tests.cache.cache_samples import tree
from tests.object_store import object_store

RUN = "0123456789abcdef, and more"


class World:
    """A machine with a run, whose copies are in `far`."""

    def __init__(self, folder: Path, address: str, run: str = RUN) -> None:
        self.checkpoints = folder / "checkpoints"
        folder.mkdir(exist_ok=True)
        self.copies = CheckpointCopies(address, run, folder / "metrics.jsonl")

    def step(self, step: int) -> Path:
        """Make a checkpoint, and measurements up to it."""
        with self.copies.measurements.open("a") as stream:
            stream.write(f'{{"step": {step}}}\n')
        begin(self.checkpoints)
        written = checkpoint_folder(writing_folder(self.checkpoints), step)
        (written / "state").mkdir(parents=True)
        (written / "state" / "weights.safetensors").write_bytes(bytes(range(256)) * step)
        (written / "state.json").write_text("{}")
        measured = prefix_of(self.copies.measurements.read_bytes())
        seal(self.checkpoints, step, run=self.copies.run, measurements=measured)
        return checkpoint_folder(self.checkpoints, step)

    def kept(self, step: int) -> Path:
        folder = self.step(step)
        self.copies.keep(folder)
        return folder

    @property
    def newest(self) -> int | None:
        self.copies.fetch(self.checkpoints)
        found = newest_checkpoint(self.checkpoints, run=self.copies.run)
        return None if found is None else found.step


def at(far: Path, step: int) -> Path:
    return far / RUN[:16] / f"checkpoint-{step}"


@pytest.fixture
def far(tmp_path: Path) -> Path:
    return tmp_path / "far"


@pytest.fixture
def here(tmp_path: Path, far: Path) -> World:
    return World(tmp_path / "here", f"file://{far}")


@pytest.fixture
def elsewhere(tmp_path: Path, far: Path) -> World:
    return World(tmp_path / "elsewhere", str(far))


def test_the_newest_copy_is_what_was_sealed_with_its_measurements(here: World, elsewhere: World, far: Path) -> None:
    assert elsewhere.newest is None
    for step in (4, 12):
        folder = here.kept(step)
    assert [path.name for path in (far / RUN[:16]).iterdir()] == ["checkpoint-12"]
    with here.copies.measurements.open("a") as stream:
        stream.write("a step after it\n")
    assert elsewhere.newest == 12
    assert tree(elsewhere.checkpoints) == tree(folder.parent)
    assert elsewhere.copies.measurements.read_text() == '{"step": 4}\n{"step": 12}\n'


def test_the_later_of_disk_and_copy_is_used(here: World, elsewhere: World) -> None:
    here.kept(4)
    assert elsewhere.newest == 4
    elsewhere.kept(9)  # the run went on on another machine
    assert here.newest == 9 and [path.name for path in here.checkpoints.iterdir()] == ["checkpoint-9"]
    assert here.copies.measurements.read_bytes() == elsewhere.copies.measurements.read_bytes()
    own = tree(here.step(10))
    assert here.newest == 10 and tree(here.checkpoints / "checkpoint-10") == own


def _flip(copy: Path) -> None:
    path = copy / "state" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def _of_another_run(copy: Path) -> None:
    path = copy / "seal.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"run": "another"}))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (_flip, "weights.safetensors has other bytes"),
    "no weights": (lambda copy: (copy / "state" / "weights.safetensors").unlink(), "weights.safetensors is missing"),
    "a file too many": (lambda copy: (copy / "state" / "more").write_text("x"), "state/more was added"),
    "another run": (_of_another_run, "it is of another run"),
    "another step": (lambda copy: copy.rename(copy.with_name("checkpoint-9")), "step 9, its seal step 8"),
    "half a seal": (lambda copy: (copy / "seal.json").write_text("{"), "seal.json is damaged"),
    "other measurements": (lambda copy: (copy / "metrics.jsonl").write_text("x"), "metrics.jsonl has other bytes"),
    "no measurements": (lambda copy: (copy / "metrics.jsonl").unlink(), "metrics.jsonl has other bytes"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_copy_with_any_damage_is_refused_and_leaves_nothing(
    here: World, elsewhere: World, far: Path, damage: str
) -> None:
    change, named = DAMAGES[damage]
    here.kept(8)
    change(at(far, 8))
    with pytest.raises(DataError, match=rf"(?s)where: .*/far/0123456789abcdef/checkpoint-\d.*{named}.*delete the copy"):
        elsewhere.copies.fetch(elsewhere.checkpoints)
    assert newest_checkpoint(elsewhere.checkpoints, run=RUN) is None
    assert not elsewhere.copies.measurements.exists()


@pytest.mark.parametrize("cut_off", [lambda seal: seal.unlink(), lambda seal: seal.write_bytes(b"")])
def test_what_has_no_seal_is_no_copy_and_is_written_anew(
    here: World, elsewhere: World, far: Path, cut_off: Callable[[Path], object]
) -> None:
    here.kept(4)
    shutil.copytree(at(far, 4), at(far, 6))
    cut_off(at(far, 6) / "seal.json")
    (at(far, 6) / "left").write_text("of a killed process")
    assert elsewhere.newest == 4
    elsewhere.kept(6)
    assert [path.name for path in (far / RUN[:16]).iterdir()] == ["checkpoint-6"]
    assert here.newest == 6


def test_runs_share_an_address(here: World, elsewhere: World, tmp_path: Path, far: Path) -> None:
    other = World(tmp_path / "other", str(far), run="f" * 20)
    here.kept(4)
    other.kept(8)
    assert (elsewhere.newest, here.newest, other.newest) == (4, 4, 8)


def test_a_store_that_cannot_be_used_is_named(
    here: World, tmp_path: Path, far: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far.write_text("a file")
    with pytest.raises(StorageError, match=r"(?s)cannot be written.*/far/0123456789abcdef.*the same command resumes"):
        here.kept(4)
    assert newest_checkpoint(here.checkpoints, run=RUN) is not None
    with pytest.raises(ConfigError, match='"nowhere" is not supported'):
        World(tmp_path / "there", "nowhere://bucket").copies.fetch(tmp_path)
    missing, said = World(tmp_path / "there", "s3://no-such-bucket/a"), "s3://no-such-bucket/a/0123456789abcdef"
    with object_store(monkeypatch), pytest.raises(StorageError, match=rf"(?s)cannot be read.*{said}"):
        missing.copies.fetch(tmp_path)

"""A run goes on from a checkpoint that is whole, sealed and its own, or says what is wrong with it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from distillab.config.terms import CrossEntropyConfig, TokenDivergenceConfig
from distillab.errors import DataError, NumericsError
from distillab.training.checkpoints import (
    Prefix,
    begin,
    checkpoint_folder,
    newest_checkpoint,
    require_finite_weights,
    seal,
    writing_folder,
)
from tests.training.conftest import Train, tiny_llama

RUN, KEPT = "this run", Prefix(12, "ab")


def _sealed(folder: Path, step: int, run: str = RUN) -> Path:
    begin(folder)
    written = checkpoint_folder(writing_folder(folder), step)
    (written / "shards").mkdir(parents=True)
    (written / "model.safetensors").write_bytes(bytes(range(256)))
    (written / "optimizer.pt").write_bytes(b"moments" * step)
    (written / "shards" / "0.distcp").write_bytes(b"a shard")
    seal(folder, step, run=run, measurements=KEPT)
    return checkpoint_folder(folder, step)


def _flip(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[100] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def _cut(folder: Path) -> None:
    (folder / "optimizer.pt").write_bytes(b"mom")


def _swap(folder: Path) -> None:
    other = _sealed(folder.parent.parent / "other", 8, run="another seed")
    shutil.rmtree(folder)
    shutil.copytree(other, folder)


def _rename(folder: Path) -> None:
    folder.rename(folder.with_name("checkpoint-9"))


def _seal_of_nonsense(folder: Path) -> None:
    (folder / "seal.json").write_text('{"step": 8, "files": 3}')


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a flipped bit": (_flip, "model.safetensors has other bytes"),
    "a short file": (_cut, r"optimizer.pt has 3 bytes, sealed were 56"),
    "no optimizer": (lambda folder: (folder / "optimizer.pt").unlink(), "optimizer.pt is missing"),
    "no shard": (lambda folder: (folder / "shards" / "0.distcp").unlink(), "shards/0.distcp is missing"),
    "a file too many": (lambda folder: (folder / "scheduler.pt").write_bytes(b"x"), "scheduler.pt was added"),
    "of another seed": (_swap, "of another run"),
    "of another step": (_rename, "step 9, its seal step 8"),
    "no seal": (lambda folder: (folder / "seal.json").unlink(), "seal.json is not there"),
    "half a seal": (lambda folder: (folder / "seal.json").write_text('{"step": 8, "fi'), "seal.json is damaged"),
    "a seal of nonsense": (_seal_of_nonsense, "seal.json is damaged"),
}


def test_a_sealed_checkpoint_is_found_with_what_belongs_to_it(tmp_path: Path) -> None:
    folder = _sealed(tmp_path, 8)
    found = newest_checkpoint(tmp_path, run=RUN)
    assert found is not None
    assert (found.folder, found.step, found.measurements) == (folder, 8, KEPT)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-8"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_any_damage_is_refused_and_named(tmp_path: Path, damage: str) -> None:
    change, named = DAMAGES[damage]
    change(_sealed(tmp_path / "checkpoints", 8))
    with pytest.raises(DataError, match=rf"(?s)not as it was sealed.*{named}.*delete this folder"):
        newest_checkpoint(tmp_path / "checkpoints", run=RUN)


def test_what_a_kill_cut_off_is_nothing(tmp_path: Path) -> None:
    begin(tmp_path)
    checkpoint_folder(writing_folder(tmp_path), 3).mkdir()
    assert newest_checkpoint(tmp_path, run=RUN) is None
    assert newest_checkpoint(tmp_path / "absent", run=RUN) is None
    (tmp_path / "checkpoint-final").mkdir()
    assert newest_checkpoint(tmp_path, run=RUN) is None
    _sealed(tmp_path, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-4", "checkpoint-final"]


def test_older_ones_go_by_their_step_not_by_the_clock(tmp_path: Path, train: Train) -> None:
    """A clock that goes back makes a new checkpoint older than the one before."""
    for step in (9, 10):
        _sealed(tmp_path / "mine", step)
        os.utime(tmp_path / "mine" / f"checkpoint-{step}", (10**9 - step, 10**9 - step))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["checkpoint-10"]

    checkpoints = tmp_path / "trained"
    train(steps=1, folder=checkpoints, checkpoint_every=1)
    (checkpoints / "checkpoint-1").rename(checkpoints / "checkpoint-2")
    future = 2 * 10**9
    os.utime(checkpoints / "checkpoint-2", (future, future))
    train(steps=3, folder=checkpoints, checkpoint_every=3)
    assert [path.name for path in checkpoints.iterdir()] == ["checkpoint-3"]


def test_a_trainers_checkpoint_is_sealed_whole(tmp_path: Path, train: Train) -> None:
    train(steps=2, folder=tmp_path, checkpoint_every=2)
    found = newest_checkpoint(tmp_path, run="")
    assert found is not None and found.step == 2
    files = set(json.loads((found.folder / "seal.json").read_text())["files"])
    tensors = "state/shard-00001-model-00001-of-00001.safetensors"
    assert files >= {tensors, "state.json", "rng_state.pth", "trainer_state.json"}


def test_balanced_weights_belong_to_what_is_sealed(tmp_path: Path, train: Train) -> None:
    terms = (CrossEntropyConfig(), TokenDivergenceConfig(weight="balanced"))
    train(terms=terms, steps=2, batch_size=4, folder=tmp_path, checkpoint_every=2)
    (tmp_path / "checkpoint-2" / "weights.json").unlink()
    with pytest.raises(DataError, match=r"weights\.json is missing"):
        newest_checkpoint(tmp_path, run="")


@pytest.mark.parametrize(("minutes", "kept"), [(1e-9, ["checkpoint-2"]), (10.0, [])])
def test_a_checkpoint_is_made_by_the_clock_too(tmp_path: Path, train: Train, minutes: float, kept: list[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(steps=4, folder=tmp_path, checkpoint_every=1000, checkpoint_minutes=minutes, stop_after=3)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == kept


def test_weights_that_are_not_finite_are_never_kept(tmp_path: Path, train: Train) -> None:
    student = tiny_llama(0)
    require_finite_weights(student, step=1)
    with pytest.raises(NumericsError, match=r"(?s)weights are not finite.*step 1.*model\."):
        train(student=student, steps=1, learning_rate=1e38, weight_decay=1e38, folder=tmp_path, checkpoint_every=1)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_value_that_is_not_finite_is_found_and_its_tensor_named(dtype: torch.dtype, value: float) -> None:
    student = tiny_llama(0).to(dtype)
    require_finite_weights(student, step=7)
    with torch.no_grad():
        student.model.norm.weight[3] = value
    with pytest.raises(NumericsError, match=r"(?s)step 7.*tensor: model\.norm\.weight\n  fix:"):
        require_finite_weights(student, step=7)

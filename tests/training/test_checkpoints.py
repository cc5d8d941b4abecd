"""A checkpoint that a kill cut off must not be resumed from."""

from __future__ import annotations

from pathlib import Path

from distillab.training.checkpoints import last_whole_checkpoint


def _checkpoint(folder: Path, step: int, state: str | None) -> None:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    if state is not None:
        (path / "trainer_state.json").write_text(state)


def test_the_newest_whole_one_is_taken(tmp_path: Path) -> None:
    _checkpoint(tmp_path, 9, "{}")
    _checkpoint(tmp_path, 100, "{}")
    _checkpoint(tmp_path, 200, None)  # killed before the state was written
    _checkpoint(tmp_path, 300, '{"global_step": 3')  # killed while it was written
    (tmp_path / "checkpoint-final").mkdir()
    assert last_whole_checkpoint(tmp_path) == (tmp_path / "checkpoint-100", 100)


def test_nothing_is_found_in_a_folder_that_is_empty_or_absent(tmp_path: Path) -> None:
    assert last_whole_checkpoint(tmp_path) is None
    assert last_whole_checkpoint(tmp_path / "absent") is None

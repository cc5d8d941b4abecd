"""`distillab doctor trainer`: a config in, findings and an exit code out."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Run
from tests.doctor.trainer_samples import Place


def test_the_command(run: Run, tmp_path: Path, materials: Path) -> None:
    place = Place(tmp_path, materials, "axolotl")
    place.rows = [(ids, [*labels[1:], -100]) for ids, labels in place.rows]
    place.check()
    code, out, err = run("doctor", "trainer", str(tmp_path / "config.yaml"))
    assert code == 1, err
    assert "error: labels-shifted-twice" in out and "axolotl: learning rate 0.0002" in out

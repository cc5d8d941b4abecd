"""`.ci/run` fails where any step fails, and refuses to start without the materials."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STEPS = ("setup", "demo", "test", "test-slow", "check", "docs")
CLOSING = "===== 12 passed, 1 skipped in 3.45s ====="

pytestmark = pytest.mark.skipif(
    shutil.which("make") is None or shutil.which("bash") is None, reason="make or bash is not installed"
)


def checkout(folder: Path, *, failing: str | None = None) -> Path:
    """A folder with the real script and a Makefile whose targets only say that they ran."""
    (folder / ".ci").mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "run", folder / ".ci" / "run")
    lines = []
    for step in STEPS:
        lines += [f"{step}:", f"\t@echo ran {step}"]
        if step == "test":
            lines.append(f'\t@echo "{CLOSING}"')
        if step == failing:
            lines.append("\t@exit 3")
    (folder / "Makefile").write_text("\n".join([f".PHONY: {' '.join(STEPS)}", *lines, ""]), encoding="utf-8")
    return folder


def run_ci(folder: Path, materials: str | None) -> subprocess.CompletedProcess[str]:
    dropped = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "DISTILLAB_MATERIALS")
    clean = {k: v for k, v in os.environ.items() if k not in dropped}
    if materials is not None:
        clean["DISTILLAB_MATERIALS"] = materials
    return subprocess.run(
        ["bash", str(folder / ".ci" / "run")], capture_output=True, text=True, env=clean, cwd="/", check=False
    )


def test_all_steps_run_and_the_closing_line_is_last(tmp_path: Path) -> None:
    (tmp_path / "shared" / "data").mkdir(parents=True)
    done = run_ci(checkout(tmp_path / "main"), materials=None)  # the default: ../shared/data
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("ran ")] == [f"ran {s}" for s in STEPS]
    assert done.stdout.splitlines()[-1] == CLOSING


@pytest.mark.parametrize("failing", STEPS)
def test_a_failing_step_fails_the_whole_at_once(tmp_path: Path, failing: str) -> None:
    done = run_ci(checkout(tmp_path / "main", failing=failing), materials=str(tmp_path))
    assert done.returncode != 0
    ran = [line.removeprefix("ran ") for line in done.stdout.splitlines() if line.startswith("ran ")]
    assert ran == list(STEPS[: STEPS.index(failing) + 1])
    assert f"make {failing}: FAILED" in done.stderr


@pytest.mark.parametrize("materials", [None, "nowhere"], ids=["default", "named"])
def test_absent_materials_are_named_before_anything_runs(tmp_path: Path, materials: str | None) -> None:
    done = run_ci(checkout(tmp_path / "main"), materials=materials)
    assert done.returncode == 1
    assert "DISTILLAB_MATERIALS" in done.stderr
    assert (materials or "../shared/data") in done.stderr
    assert "ran" not in done.stdout

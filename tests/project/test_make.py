"""`make help` tells the truth about the Makefile, and a Python that is too old is named before anything is built."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Call make without the settings of a make that may have started these tests."""
    clean = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "ARGS", "PYTHON")}
    return subprocess.run(["make", *arguments], capture_output=True, text=True, cwd=cwd, env=clean, check=False)


def targets() -> set[str]:
    """Names that the Makefile declares as targets without a file."""
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert phony is not None
    return set(phony[1].split())


def test_plain_make_is_help() -> None:
    assert make().stdout == make("help").stdout


def test_help_lists_every_target_with_a_sentence() -> None:
    done = make("help")
    assert done.returncode == 0, done.stderr
    listed = dict(re.findall(r"^  make ([a-z-]+) +(\S.*)$", done.stdout, flags=re.MULTILINE))
    assert set(listed) == targets()


def test_every_target_that_the_documents_name_exists() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / ".ci" / "run", *(ROOT / "docs").rglob("*.md")]
    named = {
        name
        for page in pages
        if page.is_file()
        for name in re.findall(
            r"^make ([a-z-]+)|[`$\"] ?make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE
        )
        for name in name
        if name
    }
    assert {"demo", "test", "check"} <= named
    assert named <= targets()


@pytest.mark.parametrize("answer", ["Python 3.10.4", None], ids=["old", "absent"])
def test_unfit_python_is_named(tmp_path: Path, answer: str | None) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "constraints").mkdir()
    shutil.copy(ROOT / "constraints" / "setup.txt", tmp_path / "constraints")
    python = tmp_path / "oldpython"
    if answer is not None:
        python.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "{answer}" && exit 0\nexit 1\n', encoding="utf-8")
        python.chmod(0o755)
    done = make("setup", f"PYTHON={python}", cwd=tmp_path)
    assert done.returncode != 0
    assert "3.11" in done.stderr
    assert answer is None or answer in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_pins_are_exact_and_torch_is_first() -> None:
    lines = (ROOT / "constraints" / "setup.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins[0].startswith("torch==")
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.+]*", pin) for pin in pins)
    names = [re.sub(r"[-_.]+", "-", pin.split("==")[0]).lower() for pin in pins]
    assert len(set(names)) == len(names)


def test_everything_that_the_package_needs_is_pinned() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.sub(r"[-_.]+", "-", re.split(r"[<>=!~\[ ;]", item)[0]).lower() for item in needed}
    text = (ROOT / "constraints" / "setup.txt").read_text(encoding="utf-8")
    pinned = {re.sub(r"[-_.]+", "-", name).lower() for name in re.findall(r"^([A-Za-z0-9._-]+)==", text, re.MULTILINE)}
    assert names <= pinned

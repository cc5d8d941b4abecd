"""`make help` lists what is there, and `make setup` refuses an old Python."""

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
    clean = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "ARGS", "PYTHON")}
    return subprocess.run(["make", *arguments], capture_output=True, text=True, cwd=cwd, env=clean, check=False)


def test_help_lists_every_target_and_the_documents_name_no_other() -> None:
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    listed = dict(re.findall(r"^  make ([a-z-]+) +(\S.*)$", make("help").stdout, flags=re.MULTILINE))
    assert set(listed) == set(phony[1].split())
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / ".ci" / "run", *(ROOT / "docs").rglob("*.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    named = set(re.findall(r"(?:^|[`$\"] ?)make ([a-z-]+)", text, re.MULTILINE))
    assert {"demo", "test", "check"} <= named <= set(listed)


def test_a_python_that_is_too_old_is_named_before_anything_is_built(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "constraints/setup.txt", "constraints/lm-eval.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    python = tmp_path / "oldpython"
    python.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.10.4" && exit 0\nexit 1\n', encoding="utf-8")
    python.chmod(0o755)
    done = make("setup", f"PYTHON={python}", cwd=tmp_path)
    assert done.returncode != 0 and not (tmp_path / ".venv").exists()
    assert "3.11" in done.stderr and "Python 3.10.4" in done.stderr

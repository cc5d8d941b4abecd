"""The figures of docs/scale.md are those that its commands print."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from distillab.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = re.findall(
    r"```console\n\$ distillab ([^\n]+)\n(.*?)```", (ROOT / "docs" / "scale.md").read_text("utf-8"), re.S
)


def require_printed(command: str, shown: str, materials: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("DISTILLAB_MATERIALS", str(materials))
    result = CliRunner().invoke(app, shlex.split(command))
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    missing = [line for line in shown.splitlines() if line not in lines]
    assert shown and not missing


@pytest.mark.slow
def test_the_shortest_command_prints_what_the_page_shows(materials: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make prove` has the others, of 5 and 10 CPU seconds."""
    assert len(BLOCKS) == 3
    require_printed(*BLOCKS[-1], materials, monkeypatch)

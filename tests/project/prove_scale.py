"""The other commands of docs/scale.md print what the page shows: `make prove`."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.project.test_scale import BLOCKS, require_printed


@pytest.mark.parametrize(("command", "shown"), BLOCKS[:-1], ids=["billion", "hundred-billion"])
def test_a_command_prints_what_the_page_shows(
    command: str, shown: str, materials: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_printed(command, shown, materials, monkeypatch)

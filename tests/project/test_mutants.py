"""The wrong versions of `make prove` name places that are there: a line that moved must not end its proof unseen."""

from __future__ import annotations

from pathlib import Path

from scripts.mutants import ROOT, listed


def test_every_wrong_version_has_its_line_and_its_test() -> None:
    def text(path: Path) -> str:
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    gone = [m.right for m in listed() if m.right not in text(ROOT / "src" / "distillab" / m.file)]
    assert not gone
    without = [m.test for m in listed() if not (ROOT / m.test.partition("::")[0]).is_file()]
    assert not without

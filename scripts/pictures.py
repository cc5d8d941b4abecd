"""Draw the pictures of README.md, a report in Chromium and a terminal: `python scripts/pictures.py REPORT`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path

from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.text import Text

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "pictures"
MATERIALS = Path(os.environ.get("DISTILLAB_MATERIALS", "../shared/data"))
_COLUMNS = 118


def report(page: Path) -> None:
    """Draw the beginning of a report as `report.png`."""
    program = next(path for name in ("chromium", "google-chrome") if (path := shutil.which(name)))
    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=program, args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": 1280, "height": 900})
        shown.goto(page.resolve().as_uri())
        shown.screenshot(path=str(FOLDER / "report.png"))
        browser.close()


def terminal() -> None:
    """Draw what `distillab check` says of the pair of the investigation as `check.svg`."""
    pair = ["mistral-7b-v0.1", "tinyllama-1.1b"]
    words = ["distillab", "check", *(str(MATERIALS / "tokenizers" / name) for name in pair)]
    environment = os.environ | {"COLUMNS": str(_COLUMNS), "FORCE_COLOR": "1"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    shown_part, methods, _ = done.stdout.partition("Methods")
    if not methods:
        raise SystemExit(f"distillab check printed no methods: {done.stderr}")
    shown = Console(record=True, width=_COLUMNS, file=StringIO(), force_terminal=True)
    shown.print(Text("$ distillab check mistralai/Mistral-7B-v0.1 TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T"))
    shown.print(Text.from_ansi(re.sub(r"\s*(\x1b\[[0-9;]*m)*\s*$", "\x1b[0m", shown_part)))
    drawn = shown.export_svg(title="distillab check", unique_id="check")
    # fonts would be fetched from elsewhere; a monospaced one is on every machine
    drawn = re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL).replace("Fira Code", "monospace")
    (FOLDER / "check.svg").write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    terminal()
    report(Path(sys.argv[1]))

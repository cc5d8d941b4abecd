"""Write the investigation report: one record as HTML, Markdown and JSON."""

from __future__ import annotations

from pathlib import Path

from distillab.files import write_text
from distillab.records import Investigation, write_record
from distillab.report.build import render
from distillab.report.findings import concluded
from distillab.report.investigation_page import page_of


def write_investigation(investigation: Investigation, folder: Path) -> list[Path]:
    """Write investigation.html, investigation.md and investigation.json; equal records give equal bytes.

    All three are made from the record and its conclusions alone. The JSON is the record, and can be read back with
    `read_record(Investigation, …)`.

    Args:
        investigation: what was found.
        folder: where the files go; created if it is missing.
    Returns:
        the paths of the three files.
    Raises:
        OSError: the folder cannot be written.
    """
    whole = concluded(investigation)
    page = page_of(whole)
    texts = {name: render(f"{name}.j2", page) for name in ("investigation.html", "investigation.md")}
    for name, text in texts.items():
        write_text(folder / name, text)
    record = folder / "investigation.json"
    write_record(whole, record)
    return [*(folder / name for name in texts), record]

"""The report of a study: two files, made from its records alone.

    results.json ─ read_results ─> StudyResults ─ write_report ─> report.html + report.md

Nothing is measured here: the values come from `records.StudyResults`, and all that is computed
is the mean and the spread over seeds. Reading order: `entries` (what is compared), `columns` and
`table` (the main table), `sections` (the rest), `drawing` and `scales` (SVG by hand, so that figures
follow the reader's light or dark setting), `figure_arms` and `figure_curves`, `build`.
"""

from distillab.records import read_results
from distillab.report.build import write_report

__all__ = ["read_results", "write_report"]

"""The notebooks run as they stand: `make prove`."""

from __future__ import annotations

import nbformat
from nbclient import NotebookClient

from tests.api.test_documents import NOTEBOOKS, code_cells


def test_notebooks_run_with_all_steps() -> None:
    """One after another in one kernel; each begins with none of the names of the one before."""
    sources = [source for path in NOTEBOOKS for source in ("%reset -f", *code_cells(path))]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    NotebookClient(notebook, timeout=1000, kernel_name="python3").execute()

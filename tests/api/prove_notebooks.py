"""The notebooks run as they stand: `make prove`."""

from tests.api.test_documents import run_notebooks


def test_notebooks_run_with_all_steps() -> None:
    run_notebooks({})

"""Fixtures of the report tests."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from distillab.records import StudyResults


@pytest.fixture(scope="session")
def study() -> StudyResults:
    """An invented study: six arms of three seeds, two demonstrations, two teachers."""
    # Test folders are no packages, so the builder beside this file is run by its path.
    return runpy.run_path(str(Path(__file__).with_name("fixture.py")))["study"]()

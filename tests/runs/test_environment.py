"""What a record states of its process."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from distillab.runs.environment import peak_rss_bytes
from tests.processes import ended, start_code


@pytest.mark.slow
def test_the_peak_of_memory_is_not_that_of_the_process_that_started_this_one() -> None:
    large = np.ones(1 << 29, np.uint8)
    code = "from distillab.runs.environment import peak_rss_bytes; print(peak_rss_bytes())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert peak_rss_bytes() > large.nbytes > int(done.stdout)


def test_cpus_are_those_that_the_process_may_use() -> None:
    """As under Slurm on a node that others use, too: threads for all of its CPUs would fight for a few."""
    code = """
import os
from distillab.runs.environment import environment
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
assert environment()["cpus"] == "1"
"""
    exit_code, err = ended(start_code(code))
    assert exit_code == 0, err

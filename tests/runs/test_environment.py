"""What a record states of its process."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from distillab.runs.environment import peak_rss_bytes


@pytest.mark.slow
def test_the_peak_of_memory_is_not_that_of_the_process_that_started_this_one() -> None:
    large = np.ones(1 << 29, np.uint8)
    code = "from distillab.runs.environment import peak_rss_bytes; print(peak_rss_bytes())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert peak_rss_bytes() > large.nbytes > int(done.stdout)

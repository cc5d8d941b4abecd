"""`python -m bench`: the command line of the benchmarks."""

from __future__ import annotations

import sys

from bench.commands import main

sys.exit(main(sys.argv[1:]))

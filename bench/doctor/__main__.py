"""`python -m bench.doctor`: every case, and the figures."""

from __future__ import annotations

import sys

from bench.doctor.command import main

sys.exit(main(sys.argv[1:]))

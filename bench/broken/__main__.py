"""`python -m bench.broken`: every broken folder and file, and the table of what is said."""

from __future__ import annotations

import os
import sys

# as the command line sets it before it imports the libraries
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from bench.broken.command import main

sys.exit(main(sys.argv[1:]))

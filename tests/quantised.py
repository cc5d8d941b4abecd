"""Tests that need torchao and bitsandbytes: marked `quantised`, and run by `tests/project/test_quantised.py`.

The two packages are not in the environment itself: transformers and PEFT import them wherever they are installed, which
makes every process slower and prints their warnings.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

PACKAGES = Path(sys.prefix) / "quantization"
"""Where `make setup` installs them."""
INT8, NF4 = (pytest.param(kind, marks=pytest.mark.quantised) for kind in ("int8", "nf4"))

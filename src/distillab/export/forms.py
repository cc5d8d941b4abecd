"""The forms of an export; light, because `--help` lists them."""

from __future__ import annotations

from typing import Literal

To = Literal["hub", "gguf", "safetensors", "merged"]

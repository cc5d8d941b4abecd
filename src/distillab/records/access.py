"""The levels of access to a teacher."""

from __future__ import annotations

from typing import Literal

AccessLevel = Literal["none", "text", "top_k", "logits", "internals"]
ACCESS_ORDER: tuple[AccessLevel, ...] = ("none", "text", "top_k", "logits", "internals")

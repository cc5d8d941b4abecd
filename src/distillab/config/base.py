"""What every setting is: strict names, nothing changes after reading."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Base: strict names, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)

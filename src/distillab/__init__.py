"""distillab: distil large language models into small ones, and know why it works or does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distillab.teachers.offline import OfflineDistillationDataset

__all__ = ["OfflineDistillationDataset", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # read when it is asked for: the command line imports this package long before it needs torch
    if name == "OfflineDistillationDataset":
        from distillab.teachers.offline import OfflineDistillationDataset

        return OfflineDistillationDataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

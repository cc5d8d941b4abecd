"""distillab: distil large language models into small ones, and know why it works or does not.

The Python interface; docs/python.md has an example of each name. Importing the package loads nothing heavy: a name is
imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distillab import divergences, doctor, terms
    from distillab.api.distil import distil
    from distillab.api.pair import check_pair
    from distillab.api.prune import prune
    from distillab.api.study import Study
    from distillab.api.trainer import Trainer
    from distillab.teachers.stored.dataset import OfflineDistillationDataset

__all__ = [
    "OfflineDistillationDataset",
    "Study",
    "Trainer",
    "__version__",
    "check_pair",
    "distil",
    "divergences",
    "doctor",
    "prune",
    "terms",
]

__version__ = "0.1.0"

_MODULE_OF = {
    "OfflineDistillationDataset": "distillab.teachers.stored.dataset",
    "Study": "distillab.api.study",
    "Trainer": "distillab.api.trainer",
    "check_pair": "distillab.api.pair",
    "distil": "distillab.api.distil",
    "prune": "distillab.api.prune",
}
_MODULES = ("divergences", "doctor", "terms")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"distillab.{name}")
    if name in _MODULE_OF:
        return getattr(importlib.import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""distillab: distil large language models into small ones, and know why it works or does not.

The Python interface; docs/python.md has an example of each name. Importing the package loads nothing heavy: a name is
imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillab.lazy import lazy_names

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

__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF, submodules=("divergences", "doctor", "terms"))

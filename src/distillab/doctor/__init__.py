"""The doctor: checks of a batch, rows, a loss, a pair, a log or a recipe, with what is wrong and what to do.

Importing it loads nothing heavy: a name is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillab.lazy import lazy_names

if TYPE_CHECKING:
    from distillab.doctor.batch.audit import audit_batch
    from distillab.doctor.data.audit import audit_data
    from distillab.doctor.loss.audit import audit_loss
    from distillab.doctor.pair.audit import audit_pair
    from distillab.doctor.pair.signal import audit_scores, audit_signal
    from distillab.doctor.run.audit import audit_run
    from distillab.doctor.tasks.audit import audit_tasks
    from distillab.doctor.trainer.audit import audit_trainer
    from distillab.doctor.watching import Watch, watch

__all__ = [
    "Watch",
    "audit_batch",
    "audit_data",
    "audit_loss",
    "audit_pair",
    "audit_run",
    "audit_scores",
    "audit_signal",
    "audit_tasks",
    "audit_trainer",
    "watch",
]

_MODULE_OF = {
    "Watch": "distillab.doctor.watching",
    "audit_batch": "distillab.doctor.batch.audit",
    "audit_data": "distillab.doctor.data.audit",
    "audit_loss": "distillab.doctor.loss.audit",
    "audit_pair": "distillab.doctor.pair.audit",
    "audit_run": "distillab.doctor.run.audit",
    "audit_scores": "distillab.doctor.pair.signal",
    "audit_signal": "distillab.doctor.pair.signal",
    "audit_tasks": "distillab.doctor.tasks.audit",
    "audit_trainer": "distillab.doctor.trainer.audit",
    "watch": "distillab.doctor.watching",
}

__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)

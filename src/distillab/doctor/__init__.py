"""The doctor: checks of a batch, rows, a loss, a pair, a log or a recipe, with what is wrong and what to do."""

from distillab.doctor.batch.audit import audit_batch
from distillab.doctor.data.audit import audit_data
from distillab.doctor.loss.audit import audit_loss
from distillab.doctor.pair.audit import audit_pair
from distillab.doctor.pair.signal import audit_scores, audit_signal
from distillab.doctor.run.audit import audit_run
from distillab.doctor.tasks.audit import audit_tasks
from distillab.doctor.trainer.audit import audit_trainer
from distillab.doctor.watch import Watch, watch

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

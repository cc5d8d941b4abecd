"""The doctor: probes that look at what somebody has, and say what is wrong with it."""

from distillab.doctor.batch.audit import audit_batch
from distillab.doctor.loss.audit import audit_loss
from distillab.doctor.run.audit import audit_run

__all__ = ["audit_batch", "audit_loss", "audit_run"]

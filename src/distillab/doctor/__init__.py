"""The doctor: probes that look at what somebody has, and say what is wrong with it."""

from distillab.doctor.batch import audit_batch
from distillab.doctor.loss_audit import audit_loss
from distillab.doctor.run_audit import audit_run

__all__ = ["audit_batch", "audit_loss", "audit_run"]

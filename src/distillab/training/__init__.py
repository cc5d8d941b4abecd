"""The one trainer."""

from distillab.training.trainer import DistillationTrainer

__all__ = ["DistillationTrainer"]

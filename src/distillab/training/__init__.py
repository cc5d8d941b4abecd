"""Train a student: one trainer for all methods."""

from distillab.training.trainer import DistillationTrainer

__all__ = ["DistillationTrainer"]

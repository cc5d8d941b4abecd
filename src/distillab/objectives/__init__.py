"""Objective terms, one a file. A term returns a sum in nats and a count; only the trainer divides."""

from distillab.objectives.build import build_objective
from distillab.objectives.term import Objective, StudentScores, Term, WeightedTerm

__all__ = ["Objective", "StudentScores", "Term", "WeightedTerm", "build_objective"]

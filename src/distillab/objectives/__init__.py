"""Objective terms, one a file. A term returns a sum in nats and a count; only the trainer divides."""

from distillab.objectives.build import build_objective
from distillab.objectives.term import ActivationTerm, Objective, StudentScores, Term, TokenTerm, WeightedTerm

__all__ = ["ActivationTerm", "Objective", "StudentScores", "Term", "TokenTerm", "WeightedTerm", "build_objective"]

"""Recipes: their settings, and how they are read and validated."""

from distillab.config.loader import apply_overrides, load_recipe
from distillab.config.methods import METHODS, Method
from distillab.config.run import RunRecipe
from distillab.config.study import StudyRecipe
from distillab.config.terms import TermConfig

__all__ = ["METHODS", "Method", "RunRecipe", "StudyRecipe", "TermConfig", "apply_overrides", "load_recipe"]

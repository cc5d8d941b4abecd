"""Evaluate every model of a study by one protocol."""

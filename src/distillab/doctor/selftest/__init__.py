"""The self-test of a recipe: what a run relies on, tried on a few rows with the code that a run uses."""

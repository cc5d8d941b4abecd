"""Checks of a recipe before its runs: pair and data, do the first steps learn, does the cache serve, does it fit."""

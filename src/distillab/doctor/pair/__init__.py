"""Checks of a teacher and a student before training: their tokens, and the teacher's signal."""

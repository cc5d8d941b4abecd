"""Examines a teacher and a student before they meet: their tokens, and what the one says to the other."""

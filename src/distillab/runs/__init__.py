"""One run: one student, one method, one seed, from its recipe to its record."""

"""Check a teacher-student pair: compare the tokenizers, then decide which methods are valid."""

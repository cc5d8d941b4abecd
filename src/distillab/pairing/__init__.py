"""May this student learn from this teacher, and how? Tokenizers, their contract, and what it admits."""

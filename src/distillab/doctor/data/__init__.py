"""What a student is given to learn: rows of prompts and answers, and what a teacher wrote."""

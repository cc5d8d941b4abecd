"""A run that another trainer will make: its config, the rows that it prepared, the rows that it reads."""

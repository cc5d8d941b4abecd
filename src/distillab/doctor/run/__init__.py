"""What a run wrote: its log, its records."""

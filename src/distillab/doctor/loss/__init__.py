"""What a loss function does, judged by its behaviour."""

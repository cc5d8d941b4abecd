"""Load, score and generate with causal language models. Does not import data or objectives."""

"""Weights on disk -> a causal language model -> generated tokens. Knows nothing of data or objectives."""

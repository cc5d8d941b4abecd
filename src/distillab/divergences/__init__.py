"""Divergences between next-token distributions: pure functions, tensors in, nats per position out.

Shape letters: N flattened scored positions, V shared vocabulary.
"""

from distillab.divergences.kl import forward_kl, reverse_kl
from distillab.divergences.mixture import jensen_shannon

__all__ = ["forward_kl", "jensen_shannon", "reverse_kl"]

"""Divergences between next-token distributions: pure functions, tensors in, nats per position out.

Student and teacher log-probabilities are (N, V) over one vocabulary. `truncated` converts top-k teacher
log-probabilities to that form, and `sampled_cross_entropy` reads tokens sampled from the teacher.

Shape letters: N flattened scored positions, V shared vocabulary.
"""

from distillab.divergences.adaptive import adaptive_kl
from distillab.divergences.alpha_beta import alpha_beta
from distillab.divergences.by_name import divergence
from distillab.divergences.kl import forward_kl, reverse_kl
from distillab.divergences.mixture import jensen_shannon, skewed_forward_kl, skewed_reverse_kl
from distillab.divergences.sampled import sampled_cross_entropy
from distillab.divergences.truncated import drop_tail, logmass_left, logmass_outside, renormalised, with_tail_cell
from distillab.divergences.variation import total_variation

__all__ = [
    "adaptive_kl",
    "alpha_beta",
    "divergence",
    "drop_tail",
    "forward_kl",
    "jensen_shannon",
    "logmass_left",
    "logmass_outside",
    "renormalised",
    "reverse_kl",
    "sampled_cross_entropy",
    "skewed_forward_kl",
    "skewed_reverse_kl",
    "total_variation",
    "with_tail_cell",
]

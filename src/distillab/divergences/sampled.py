"""Cross-entropy against tokens sampled from the teacher. N scored positions, V vocabulary, K draws a position."""

from __future__ import annotations

from torch import Tensor

from distillab.errors import ShapeError


def sampled_cross_entropy(*, student_logp: Tensor, drawn_ids: Tensor) -> Tensor:
    """Return the cross-entropy of the student against the teacher's draws, per position, in nats.

        C_n = −Σ_v count_nv/K · s_nv = −1/K Σ_k s_n,drawn(n,k)

    The counts of draws with replacement are an unbiased estimate of the teacher's distribution p, tail included, and
    C is linear in them. So its expectation is −Σ p·s = KL(teacher ‖ student) + H(teacher), and as the teacher's
    entropy does not depend on the student, the expected gradient is exactly that of forward KL. The value is a
    cross-entropy, not a KL: the entropy is unknown from draws and is not subtracted.

    Args:
        student_logp: (N, V) natural-log probabilities, rows sum to one, any float dtype.
        drawn_ids: (N, K) int64, drawn independently from the teacher's distribution, with replacement; an id is
            repeated as often as it was drawn.
    Returns:
        (N,) nats, ≥ 0, in the student's dtype; +inf if the student gives zero probability to a drawn token.
    Raises:
        ShapeError: the shapes do not fit together, or there are no draws.
    Source: Anshumann et al. 2025, Sparse Logit Sampling (arXiv:2503.16870).
    """
    fits = student_logp.dim() == 2 and drawn_ids.dim() == 2 and drawn_ids.shape[0] == student_logp.shape[0]
    if not fits or drawn_ids.shape[1] == 0:
        raise ShapeError(
            "Sampled teacher ids are (N, K), K ≥ 1, for student log-probabilities (N, V).",
            facts=[f"student_logp {tuple(student_logp.shape)}", f"drawn_ids {tuple(drawn_ids.shape)}"],
        )
    return mean_nats(student_logp.gather(1, drawn_ids))


def mean_nats(drawn_logp: Tensor) -> Tensor:
    """Return the same from the (N, K) log-probabilities of the draws themselves."""
    return -drawn_logp.mean(dim=-1)

"""Compare hidden states of two models. Pure functions: tensors in, one value a position or a sample out.

All are computed in float32 (float64 for float64 inputs). Shape letters: N positions, D width after projection,
E the teacher's width, n positions of one sample.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distillab.errors import ShapeError

# U-centring divides by n − 3
FEWEST_FOR_CKA = 4
# values below this many units of rounding count as rounding
_ROUNDING = 100.0


def unit_rms(states_ND: Tensor) -> Tensor:
    """Divide every state by its root mean square, as RMSNorm does without its weights.

        ĥ_n = h_n / √(mean_d h_nd²)

    Args:
        states_ND: (N, D).
    Returns:
        (N, D) of mean square 1 at each position; a state that is exactly zero stays zero and gets no blown-up gradient.
    """
    states_ND = _wide(states_ND)
    square_N1 = states_ND.pow(2).mean(dim=-1, keepdim=True)
    return states_ND * torch.where(square_N1 == 0, torch.ones_like(square_N1), square_N1).rsqrt()


def mean_squared_error(*, student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
    """Return the squared error a position, averaged over the dimensions.

        e_n = mean_d (s_nd − t_nd)²

    Between states of `unit_rms` it is 0 where both are equal, 1 where the student's is zero, 2 where they are
    orthogonal, whatever the layer's scale and width: neither a layer after the final norm nor a token with a huge
    state outweighs the rest.

    Args:
        student_ND: (N, D) the student's states, in the teacher's space.
        teacher_ND: (N, D) the teacher's states.
    Returns:
        (N,) ≥ 0.
    Raises:
        ShapeError: the shapes differ.
    Source: TinyBERT (Jiao et al. 2020, arXiv:1909.10351); of states of equal length, PKD (Sun et al. 2019,
        arXiv:1908.09355).

    >>> s, t = torch.tensor([[3.0, 0.0]]), torch.tensor([[4.0, 0.0]])
    >>> mean_squared_error(student_ND=s, teacher_ND=t).item()
    0.5
    >>> round(mean_squared_error(student_ND=unit_rms(s), teacher_ND=unit_rms(t)).item(), 6)
    0.0
    """
    student, teacher = _same_shape(student_ND, teacher_ND)
    return (student - teacher).pow(2).mean(dim=-1)


def cosine_distance(*, student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
    """Return one minus the cosine of the angle between two states, a position.

    Args:
        student_ND: (N, D) the student's states, in the teacher's space.
        teacher_ND: (N, D) the teacher's states.
    Returns:
        (N,) between 0 and 2; 1 where a state is zero, for it has no direction.
    Raises:
        ShapeError: the shapes differ.
    Source: DistilBERT (Sanh et al. 2019, arXiv:1910.01108).

    >>> s, t = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]])
    >>> round(cosine_distance(student_ND=s, teacher_ND=t).item(), 4)
    0.2929
    """
    student, teacher = _same_shape(student_ND, teacher_ND)
    return 1.0 - (unit_rms(student) * unit_rms(teacher)).mean(dim=-1)


def debiased_cka(*, student_nD: Tensor, teacher_nE: Tensor) -> Tensor:
    """Compute the debiased linear CKA of one sample: do its positions have the same similarities in both models?

        K = S Sᵀ without its diagonal, U(K) = K − row means − column means + mean   (U-centred, see below)
        CKA = ⟨U(K), U(L)⟩ / (‖U(K)‖ ‖U(L)‖)

    with L the same of the teacher, and U(K)_ij = K_ij − r_i/(n−2) − r_j/(n−2) + r/((n−1)(n−2)) off the diagonal and
    0 on it (r_i the sum of row i, r of all). ⟨U(K), U(L)⟩ / (n(n−3)) is the unbiased estimate of HSIC, so the factor
    cancels. Written as a cosine, the value lies in [−1, 1] and the denominator is a product of lengths: it is never
    negative, which it can be where the three estimates are computed one by one. Small negative values are meant:
    the estimate of an independence is around 0, not above it.

    Args:
        student_nD: (n, D) the student's states at the sample's positions, n ≥ 4.
        teacher_nE: (n, E) the teacher's, any width.
    Returns:
        () between −1 and 1; invariant to a rotation, a shift and a scale of either matrix. 0, without a gradient,
        if only rounding is left of one after U-centring: all its states are alike, or all but one.
    Raises:
        ShapeError: other numbers of positions, or fewer than 4.
    Source: Kornblith et al. 2019 (arXiv:1905.00414) for CKA; Song et al. 2012 (JMLR 13) for the unbiased HSIC;
        Székely and Rizzo 2014 (arXiv:1310.2926) for U-centring; Nguyen et al. 2021 (arXiv:2010.15327) for both.
    """
    n = student_nD.shape[0]
    if student_nD.ndim != 2 or teacher_nE.ndim != 2 or teacher_nE.shape[0] != n or n < FEWEST_FOR_CKA:
        raise ShapeError(
            f"CKA compares the same positions of both models, at least {FEWEST_FOR_CKA} of them.",
            facts=[f"student {tuple(student_nD.shape)}", f"teacher {tuple(teacher_nE.shape)}"],
        )
    student, student_flat = _u_centred_gram(_wide(student_nD))
    teacher, teacher_flat = _u_centred_gram(_wide(teacher_nE))
    flat = student_flat | teacher_flat
    lengths_squared = student.pow(2).sum() * teacher.pow(2).sum()
    # where() on the way in as well: the gradient of the branch that is not taken must be finite
    length = torch.where(flat, torch.ones_like(lengths_squared), lengths_squared).sqrt()
    similarity = (student * teacher).sum() / length
    return torch.where(flat, torch.zeros_like(similarity), similarity)


def _u_centred_gram(states_nD: Tensor) -> tuple[Tensor, Tensor]:
    n = states_nD.shape[0]
    # Neither step changes the result; both keep small differences from drowning in a large common part.
    states_nD = states_nD - states_nD.mean(dim=0)
    size = torch.linalg.vector_norm(states_nD.detach())
    states_nD = states_nD / size.clamp(min=torch.finfo(size.dtype).tiny)
    gram_nn = states_nD @ states_nD.T
    diagonal_nn = torch.eye(n, dtype=torch.bool, device=gram_nn.device)
    off_nn = gram_nn.masked_fill(diagonal_nn, 0.0)
    rows_n = off_nn.sum(dim=0)
    centred_nn = off_nn - (rows_n[:, None] + rows_n[None, :]) / (n - 2) + rows_n.sum() / ((n - 1) * (n - 2))
    centred_nn = centred_nn.masked_fill(diagonal_nn, 0.0)
    with torch.no_grad():
        rounding = _ROUNDING * torch.finfo(gram_nn.dtype).eps
        flat = torch.linalg.vector_norm(centred_nn) <= rounding * torch.linalg.vector_norm(gram_nn)
    return centred_nn, flat


def _same_shape(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    if student.shape != teacher.shape or student.ndim != 2:
        raise ShapeError(
            "Hidden states are compared position by position in one space.",
            facts=[f"student {tuple(student.shape)}", f"teacher {tuple(teacher.shape)}"],
            fix="project the student's states to the teacher's width first",
        )
    return _wide(student), _wide(teacher)


def _wide(states: Tensor) -> Tensor:
    return states if states.dtype == torch.float64 else states.float()

"""Project from the student's width to the teacher's: one linear map a pair of layers, without bias.

Shape letters: N positions, D the student's width, E the teacher's.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor

from distillab.errors import ConfigError, NumericsError, ShapeError

Pair = tuple[int, int]

# Ridge, as a share of the student's mean square a direction. It hardly matters with many positions. With few, a much
# smaller one fits the warm-up batch better and all other rows worse; a much larger one would suppress the small
# directions of a model in which a few dimensions are huge.
RIDGE = 1e-2


def build_projector(
    choice: Literal["auto", "linear", "none"],
    pairs: tuple[Pair, ...],
    *,
    student_width: int,
    teacher_width: int,
) -> torch.nn.ModuleDict | None:
    """Build the maps of all pairs under their names (`pair_name`), float32; None for the identity.

    Each starts as a semi-orthogonal matrix, drawn from torch's global random state: it keeps lengths if the
    teacher is the wider model.

    Args:
        choice: auto is linear where the widths differ; none is refused there.
        pairs: (student layer, teacher layer).
    Raises:
        ConfigError: none, though the widths differ.
    """
    if choice == "none" and student_width != teacher_width:
        raise ConfigError(
            "Hidden states of different widths cannot be compared without a projector.",
            where="projector: none",
            facts=[f"student width {student_width}", f"teacher width {teacher_width}"],
            fix="write projector: auto, or loss: cka, which compares layers of any width",
        )
    if choice == "none" or (choice == "auto" and student_width == teacher_width):
        return None
    maps = torch.nn.ModuleDict()
    for pair in pairs:
        linear = torch.nn.Linear(student_width, teacher_width, bias=False, dtype=torch.float32)
        torch.nn.init.orthogonal_(linear.weight)
        maps[pair_name(pair)] = linear
    return maps


def pair_name(pair: Pair) -> str:
    """Return the name of a pair's map.

    >>> pair_name((4, 8))
    's4_t8'
    """
    return f"s{pair[0]}_t{pair[1]}"


def pair_weight(projector: torch.nn.Module, pair: Pair) -> Tensor:
    """Return (E, D) the parameter of a pair, from what `build_projector` made."""
    return cast(torch.nn.Linear, projector.get_submodule(pair_name(pair))).weight


def least_squares(*, student_ND: Tensor, teacher_NE: Tensor) -> Tensor:
    """Compute the matrix that maps the student's states nearest to the teacher's, by ridge regression.

        P = argmin Σ_n ‖P s_n − t_n‖² + λ ‖P‖²,   λ = 0.01 · Σ_n ‖s_n‖² / D

    The ridge makes the solution unique where the positions do not span the student's space (fewer positions than D, or
    collinear states): directions without data are mapped to zero. And it keeps the map from overfitting a
    small warm-up batch. Solved in float64.

    Args:
        student_ND: (N, D) states at some positions.
        teacher_NE: (N, E) the teacher's states at the same positions, on any device.
    Returns:
        (E, D) float32, on the student's device.
    Raises:
        ShapeError: other numbers of positions.
        NumericsError: there is nothing to fit: no position, or states that are all zero or not finite.
    """
    if student_ND.ndim != 2 or teacher_NE.ndim != 2 or student_ND.shape[0] != teacher_NE.shape[0]:
        raise ShapeError(
            "A projector is fitted to the same positions of student and teacher.",
            facts=[f"student {tuple(student_ND.shape)}", f"teacher {tuple(teacher_NE.shape)}"],
        )
    student = student_ND.detach().double()
    teacher = teacher_NE.detach().to(student_ND.device).double()
    gram_DD = student.T @ student
    mean_square = gram_DD.diagonal().mean()
    cross_DE = student.T @ teacher
    if not bool(mean_square > 0) or not bool(torch.isfinite(mean_square)) or not bool(torch.isfinite(cross_DE).all()):
        raise NumericsError(
            "A projector cannot be fitted to the warm-up batch.",
            facts=[
                f"{student.shape[0]} positions",
                f"student states: mean square {float(student.pow(2).mean()) if student.numel() else 0.0:.3g}",
                f"teacher states: mean square {float(teacher.pow(2).mean()) if teacher.numel() else 0.0:.3g}",
            ],
            fix="write projector_init: orthogonal, or check the rows and the dtype of the models",
        )
    ridge = RIDGE * mean_square * torch.eye(student.shape[1], dtype=torch.float64, device=student.device)
    return torch.linalg.solve(gram_DD + ridge, cross_DE).T.float().contiguous()

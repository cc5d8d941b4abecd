"""Finds where a loss or a gradient stopped being finite, and says so.

Shape letters: N flattened scored positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distillab.errors import NumericsError
from distillab.objectives.term import StudentScores
from distillab.teachers.signals import TeacherSignal


def nonfinite_loss(
    term: str,
    per_position_N: Tensor,
    *,
    step: int,
    rows_N: Tensor,
    row_names: Sequence[str],
    student: StudentScores,
    signal: TeacherSignal | None,
) -> NumericsError:
    """The error for a term whose sum is not finite: step, rows and the first tensor at fault."""
    bad = ~torch.isfinite(per_position_N)
    rows = sorted({int(row) for row in rows_N[bad.to(rows_N.device)]})
    names = ", ".join(row_names[row] for row in rows[:5]) + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")
    facts = [f"{int(bad.sum())} of {bad.numel()} positions are {_kinds(per_position_N)}", f"rows: {names}"]
    teacher_logits = getattr(signal, "logits_NW", None)
    tensors = [("the student's logits", student.logits_NV), ("the teacher's logits", teacher_logits)]
    culprits = [f"{name} are {_kinds(value)}" for name, value in tensors if value is not None and _kinds(value)]
    facts.append(f"tensor: {'; '.join(culprits) if culprits else f'{term} itself (all logits are finite)'}")
    student_bad = bool(_kinds(student.logits_NV))
    fix = (
        "lower training.learning_rate, or use float32; the last checkpoint is sound"
        if student_bad
        else "look at the rows named above and at the teacher's dtype"
    )
    return NumericsError(
        f"The loss is not finite ({term}), so training stopped.", where=f"step {step}", facts=facts, fix=fix
    )


def require_finite_gradients(model: torch.nn.Module, *, step: int) -> None:
    """Check all gradients with one norm; name the parameters only when it fails.

    Raises:
        NumericsError: a gradient is NaN or infinite; the optimizer has not used it yet.
    """
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if not gradients or bool(torch.isfinite(torch.nn.utils.get_total_norm(gradients))):
        return
    names = [
        name for name, p in model.named_parameters() if p.grad is not None and not bool(torch.isfinite(p.grad).all())
    ]
    raise NumericsError(
        "A gradient is not finite, so training stopped before the optimizer used it.",
        where=f"step {step}",
        facts=[f"tensor: gradient of {name}" for name in names[:5]]
        + ([f"and {len(names) - 5} more"] if len(names) > 5 else []),
        fix="lower training.learning_rate, or use float32; the last checkpoint is sound",
    )


def _kinds(values: Tensor) -> str:
    kinds = []
    if bool(torch.isnan(values).any()):
        kinds.append("NaN")
    if bool(torch.isposinf(values).any()):
        kinds.append("+inf")
    # −inf logits are legal: they mean "no probability"
    return " and ".join(kinds)

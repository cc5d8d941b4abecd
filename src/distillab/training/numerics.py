"""Report which term, row and tensor made a loss or a gradient non-finite (NaN or infinite).

Shape letters: N flattened scored positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distillab.errors import NumericsError
from distillab.models.batch import TokenBatch
from distillab.models.scoring import scored_rows
from distillab.models.sharded import local
from distillab.objectives.step import Measured

LOWER_RATE = "lower training.learning_rate, or use float32, with another output: the same command would stop here again"
_LOOKED_AT = 64  # bad positions whose logits are computed again, to find which model is at fault


def nonfinite_loss(
    measured: Measured, batch: TokenBatch, *, step: int, row_names: Sequence[str]
) -> NumericsError | None:
    """Return the error for a term whose sum over a microbatch is not finite: step, rows, first tensor."""
    finite = torch.isfinite(torch.stack([total.float() for total in measured.sums.values()])).tolist()
    bad_terms = [name for name, good in zip(measured.sums, finite, strict=True) if not good]
    if not bad_terms:
        return None
    term = bad_terms[0]
    facts: list[str] = []
    culprits: list[str] = []
    if term in measured.values:
        per_position = measured.values[term]
        bad = ~torch.isfinite(per_position)
        rows = sorted({int(row) for row in scored_rows(batch)[bad.to(batch["rows"].device)]})
        facts.append(f"{int(bad.sum())} of {bad.numel()} positions are {_kinds(per_position)}")
        student, teacher = measured.scores(bad.nonzero()[:_LOOKED_AT, 0], batch)
        tensors = [("the student's logits", student.logits_NV)]
        tensors += [] if teacher is None else list(teacher.tensors().items())
        culprits = [f"{name} are {_kinds(value)}" for name, value in tensors if _kinds(value)]
        student_bad = bool(_kinds(student.logits_NV))
    else:
        rows = sorted({int(row) for row in batch["rows"].unique() if row >= 0})
        student_bad = bool(_kinds(measured.hidden_ND))
        culprits = [f"the student's hidden states are {_kinds(measured.hidden_ND)}"] if student_bad else []
    names = ", ".join(row_names[row] for row in rows[:5]) + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")
    facts.append(f"rows: {names}")
    facts.append(f"tensor: {'; '.join(culprits) if culprits else f'{term} itself (all logits are finite)'}")
    fix = LOWER_RATE if student_bad else "check the rows named above and the teacher's dtype"
    return NumericsError(
        f"The loss is not finite ({term}), so training stopped.", where=f"step {step}", facts=facts, fix=fix
    )


def require_finite_gradients(model: torch.nn.Module, *, step: int) -> None:
    """Check all gradients with one norm; name the parameters only when it fails.

    Raises:
        NumericsError: a gradient is NaN or infinite; the optimizer has not used it yet.
    """
    # of a divided model each process checks its part
    gradients = [local(p.grad) for p in model.parameters() if p.grad is not None]
    if not gradients or bool(torch.isfinite(torch.nn.utils.get_total_norm(gradients))):
        return
    names = [
        name
        for name, p in model.named_parameters()
        if p.grad is not None and not bool(torch.isfinite(local(p.grad)).all())
    ]
    raise NumericsError(
        "A gradient is not finite, so training stopped before the optimizer used it.",
        where=f"step {step}",
        facts=[f"tensor: gradient of {name}" for name in names[:5]]
        + ([f"and {len(names) - 5} more"] if len(names) > 5 else []),
        fix=LOWER_RATE,
    )


def nonfinite_gradient(step: int) -> NumericsError:
    """Return the error where only the norm of all gradients is known, after the optimizer has used them."""
    return NumericsError(
        "A gradient is not finite, so training stopped; these weights are not saved.",
        where=f"step {step}",
        fix=LOWER_RATE,
    )


def _kinds(values: Tensor) -> str:
    kinds = []
    if bool(torch.isnan(values).any()):
        kinds.append("NaN")
    if bool(torch.isposinf(values).any()):
        kinds.append("+inf")
    # −inf logits are legal: they mean "no probability"
    return " and ".join(kinds)

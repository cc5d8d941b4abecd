"""The scored positions of a row, with the log-probabilities of teacher and student.

Shapes: n scored positions of one row, W teacher's logits, V student's logits, C ids that both have logits for.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from distillab.errors import DataError

# a probability of zero is not infinitely worse than a tiny one, or one position would decide all
LOWEST_LOGP = -30.0
# positions × logits that are held at once: 128 MiB in float32, a thousand positions of a vocabulary of 32,000
MAX_ELEMENTS = 1 << 25


@dataclass(frozen=True, eq=False)
class SignalRow:
    """The scored positions of one row.

    Attributes:
        places: (n,) position in the row of the token that is predicted.
        ids: (n,) that token.
        teacher_logp: (n, C) float32 over the ids for which both models have logits, each at least LOWEST_LOGP.
        student_logp: (n, C) likewise; None without the student's logits.
    """

    places: Tensor
    ids: Tensor
    teacher_logp: Tensor
    student_logp: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)


def signal_row(places: Tensor, ids: Tensor, teacher_logits: Tensor, student_logits: Tensor | None) -> SignalRow:
    """Return a row of scored positions from raw logits (n, W) and (n, V); compared are the first min(W, V) of both.

    Raises:
        DataError: a value is NaN or +inf, or a position has no finite one.
    """
    width = teacher_logits.shape[1]
    if student_logits is not None:
        width = min(width, student_logits.shape[1])
    return SignalRow(
        places=places.cpu(),
        ids=ids.long().cpu(),
        teacher_logp=_logp(teacher_logits[:, :width], "teacher"),
        student_logp=None if student_logits is None else _logp(student_logits[:, :width], "student"),
    )


def _logp(logits: Tensor, whose: str) -> Tensor:
    logits = logits.detach().float().cpu()
    if logits.isnan().any() or (logits == float("inf")).any() or (logits == float("-inf")).all(dim=1).any():
        raise DataError(
            f"The {whose}'s logits must be finite.",
            facts=[f"{int((~logits.isfinite()).sum()):,} of {logits.numel():,} values are NaN or infinite"],
            fix="find out at which layer they begin; float16 overflows at 65,504",
        )
    return logits.log_softmax(dim=1).clamp_(min=LOWEST_LOGP)

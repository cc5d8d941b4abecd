"""Use your own torch loss as a term.

Shape letters: N scored positions (all, or those of one chunk), V student vocabulary, W ids that both models share.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from distillab.config.terms import CustomDivergenceConfig, CustomLossConfig
from distillab.errors import ConfigError, TeacherError
from distillab.objectives.build import TermContext
from distillab.objectives.shared_ids import require_fitting
from distillab.objectives.term import StudentScores, TeacherScores, TokenTerm
from distillab.teachers.signals import Distribution, FullLogits, scaled_logits

_TRIAL_ROWS = 3


class CustomLoss(TokenTerm, config=CustomLossConfig):
    """Your own loss of the student.

        term = dl.terms.CustomLoss(loss=my_loss, name="my_loss", weight=0.5)
        my_loss(student_logits, labels) -> values

    `student_logits` is (N, V) float32 with a gradient, `labels` (N,) int64 the tokens that follow, already shifted,
    without any masked position; `values` is (N,), in any unit. The term's value is their sum divided by the number of
    scored tokens of the whole optimizer step. The loss is called on some of a microbatch's positions at a time, so
    each value has to follow from its position alone. This is checked on three random positions at the first call.

    Raises:
        ConfigError: the loss gives a mean or a sum instead of one value for each position, its values depend on other
            positions, have no gradient, or it changes the teacher's logits.
    """

    def __init__(self, settings: CustomLossConfig | CustomDivergenceConfig, *, shared_width: int) -> None:
        self.name = settings.name
        self.shared_width = shared_width
        self._loss = settings.loss
        self._checked = False

    @classmethod
    def from_config(cls, settings: CustomLossConfig | CustomDivergenceConfig, context: TermContext) -> Self:
        """Build the term for the two models of `context`."""
        return cls(settings, shared_width=context.shared_width)

    def per_position(self, student: StudentScores, signal: TeacherScores | None) -> Tensor:
        """Return (N,) values of the loss.

        Raises:
            ConfigError: see above.
        """
        return self._values(scaled_logits(student.logits_NV, student.logits_NV.shape[1], 1.0), student.targets_N)

    def _values(self, *tensors: Tensor) -> Tensor:
        if not self._checked:
            self._check([tensor.shape[1] for tensor in tensors[:-1]], tensors[0].device)
            self._checked = True
        values: Tensor = self._loss(*tensors)
        return values

    def _check(self, widths: list[int], device: torch.device) -> None:
        """Call the loss on three random positions and on the first two of them."""
        random = torch.Generator().manual_seed(0)
        logits = [torch.randn(_TRIAL_ROWS, width, generator=random).to(device) for width in widths]
        labels = torch.randint(min(widths), (_TRIAL_ROWS,), generator=random).to(device)
        before = [tensor.clone() for tensor in logits]
        with torch.enable_grad():
            found = self._loss(logits[0].clone().requires_grad_(), *logits[1:], labels)
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            if shape != (_TRIAL_ROWS,):
                raise self._refused(
                    f"of {_TRIAL_ROWS} positions it gives {shape}", "return one value for each position"
                )
            if not found.requires_grad:
                raise self._refused("its values have no gradient", "compute them from student_logits with torch")
            fewer = self._loss(before[0][:-1].clone().requires_grad_(), *(one[:-1] for one in before[1:]), labels[:-1])
        if any(not torch.equal(one, other) for one, other in zip(logits[1:], before[1:], strict=True)):
            raise self._refused("it changes teacher_logits in place", "write to a new tensor")
        if fewer.shape != (_TRIAL_ROWS - 1,) or not torch.allclose(found[:-1], fewer, rtol=1e-4, atol=1e-6):
            raise self._refused(
                "a position's value changes with the other positions, or from call to call",
                "divide by no count, draw nothing, and compare no positions with each other",
            )

    def _refused(self, fact: str, fix: str) -> ConfigError:
        return ConfigError(
            "A loss of your own has to give one value for each position.",
            where=f"term {self.name}: {getattr(self._loss, '__qualname__', type(self._loss).__qualname__)}",
            facts=[fact],
            fix=f"{fix}; of torch's own losses: reduction='none'",
        )


class CustomDivergence(CustomLoss, config=CustomDivergenceConfig):
    """Your own loss of student and teacher.

        term = dl.terms.CustomDivergence(loss=my_loss, name="my_loss", weight=0.5)
        my_loss(student_logits, teacher_logits, labels) -> values

    Both logits are (N, W) float32, cut to the ids that the tokenizers share; the teacher's have no gradient. All else
    is as for `CustomLoss`.
    """

    def __init__(self, settings: CustomLossConfig | CustomDivergenceConfig, *, shared_width: int) -> None:
        super().__init__(settings, shared_width=shared_width)
        self.score_request = Distribution(shared_width)

    def per_position(self, student: StudentScores, signal: TeacherScores | None) -> Tensor:
        """Return (N,) values of the loss.

        Raises:
            ConfigError: see `CustomLoss`.
            TeacherError: there is no teacher, or it does not give full logits.
            ShapeError: the signal has another number of positions, or fewer ids than are shared.
        """
        teacher = require_fitting(student, signal, width=self.shared_width, term=self.name)
        if not isinstance(teacher, FullLogits):
            raise TeacherError(f"The term {self.name} reads logits, and the teacher gives only some probabilities.")
        width = self.shared_width
        student_NW, teacher_NW = (scaled_logits(x, width, 1.0) for x in (student.logits_NV, teacher.logits_NW))
        return self._values(student_NW, teacher_NW, student.targets_N)

"""Call a loss function of unknown code.

Shape letters: B sequences, L positions, N scored positions, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from distillab.doctor.loss.sample_problem import LogitBatch
from distillab.errors import ConfigError, DistillabError

Role = Literal["student_logits", "teacher_logits", "labels", "attention_mask"]
# sequences: (B, L, V), as the models give them, and unshifted labels. shifted: the last logits and the first labels
# are already cut off, (B, L−1, V). scored: the scored positions alone, (N, V) and (N,).
Given = Literal["sequences", "shifted", "scored"]
# A distillation loss: takes tensors of the roles, returns a tensor of any shape (a scalar, as a rule).
LossFunction = Callable[..., object]

_NAMES: dict[str, Role] = {
    "student_logits": "student_logits",
    "logits_student": "student_logits",
    "student": "student_logits",
    "logits": "student_logits",
    "teacher_logits": "teacher_logits",
    "logits_teacher": "teacher_logits",
    "teacher": "teacher_logits",
    "labels": "labels",
    "label": "labels",
    "targets": "labels",
    "attention_mask": "attention_mask",
    "mask": "attention_mask",
}
_TEMPERATURES = ("temperature", "kd_temperature", "distil_temperature", "temp", "tau", "T")
# What a function may raise where it is given numbers or shapes that it does not expect.
REFUSALS = (ArithmeticError, AssertionError, LookupError, RuntimeError, ValueError, DistillabError)
# With a temperature other than 1 a mistake about it shows.
TRIED_TEMPERATURE = 2.0


@dataclass(frozen=True)
class Measured:
    """One call. value: the sum of what came back, nats as a rule. gradient: (B, L, V), of it to the student's logits.

    shape: of what came back. changed: whose logits the call wrote into.
    """

    value: float
    gradient: Tensor
    shape: tuple[int, ...]
    changed: tuple[str, ...]

    @property
    def finite(self) -> bool:
        """Whether value and gradient hold only numbers."""
        return bool(torch.isfinite(torch.tensor(self.value)) and torch.isfinite(self.gradient).all())

    @property
    def has_nan(self) -> bool:
        """Whether value or gradient holds NaN."""
        return self.value != self.value or bool(self.gradient.isnan().any())


@dataclass(frozen=True)
class LossCaller:
    """A loss function together with the way in which it is called.

    by_name: the parameter of each role, or None where they are positional, in the order of `takes`.
    temperature: the name of the parameter, None where the function has none.
    """

    function: LossFunction
    takes: tuple[Role, ...]
    by_name: tuple[str, ...] | None
    temperature: str | None
    given: Given

    def __call__(self, batch: LogitBatch, *, temperature: float = TRIED_TEMPERATURE) -> Measured:
        """Return value and gradient; an error of the function is raised."""
        student = batch.student.clone().requires_grad_()
        # a copy: a leaf that wants a gradient may not be written into, and a function that does so is to be seen
        inside, teacher = student * 1.0, batch.teacher.clone()
        out = self._out(batch, inside, teacher, temperature)
        gradient = torch.zeros_like(student)
        if out.requires_grad:
            (found,) = torch.autograd.grad(out.sum(), student, allow_unused=True)
            gradient = gradient if found is None else found.float()
        pairs = (("the student", inside.detach(), batch.student), ("the teacher", teacher, batch.teacher))
        changed = tuple(side for side, now, before in pairs if not torch.equal(now, before))
        return Measured(float(out.detach().sum()), gradient, tuple(out.shape), changed)

    def attempt(self, batch: LogitBatch, *, temperature: float = TRIED_TEMPERATURE) -> Measured | None:
        """Return the same for inputs that a function may refuse; None if it does."""
        try:
            return self(batch, temperature=temperature)
        except REFUSALS:
            return None

    def reaches_teacher(self, batch: LogitBatch) -> bool:
        """Return whether a gradient flows into the teacher's logits if they require one."""
        teacher = batch.teacher.clone().requires_grad_()
        try:
            out = self._out(batch, batch.student.clone(), teacher * 1.0, TRIED_TEMPERATURE)
        except REFUSALS:
            return False
        if not out.requires_grad:
            return False
        (found,) = torch.autograd.grad(out.sum(), teacher, allow_unused=True)
        return found is not None and bool(found.abs().sum() > 0)

    def _out(self, batch: LogitBatch, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        every: dict[str, Tensor] = {
            "student_logits": student,
            "teacher_logits": teacher,
            "labels": batch.labels.clone(),
            "attention_mask": batch.attention.clone(),
        }
        tensors = [_as_given(every[role], role, batch, self.given) for role in self.takes]
        named: dict[str, object] = {} if self.temperature is None else {self.temperature: temperature}
        if self.by_name is not None:
            named |= dict(zip(self.by_name, tensors, strict=True))
            tensors = []
        out = self.function(*tensors, **named)
        if isinstance(out, int | float):
            return torch.tensor(float(out))
        if not isinstance(out, Tensor):
            raise ConfigError(
                "A loss function returns one tensor.",
                facts=[f"returned: {type(out).__name__}"],
                fix="wrap it: lambda *tensors: function(*tensors)[0], and name the tensors that it takes",
            )
        return out


def _as_given(tensor: Tensor, role: Role, batch: LogitBatch, given: Given) -> Tensor:
    if given == "sequences":
        return tensor
    is_logits = role in ("student_logits", "teacher_logits")
    shifted = tensor[:, :-1] if is_logits else tensor[:, 1:]
    return shifted if given == "shifted" else shifted[batch.scored[:, :-1]]


def described_call(
    function: LossFunction, *, takes: Sequence[Role] | None, temperature: str | None, given: Given
) -> LossCaller:
    """Return how that function is called: as stated, else by the names of its parameters.

    Raises:
        ConfigError: a parameter without a default has an unknown name, no parameter is the student's or the
            teacher's, or a stated name is not among the names.
    """
    parameters = _parameters(function)
    if temperature is None:
        temperature = next((name for name in _TEMPERATURES if name in parameters), None)
    if takes is not None:
        unknown = [role for role in takes if role not in get_args(Role)]
        if unknown or len(set(takes)) != len(takes) or not {"student_logits", "teacher_logits"} <= set(takes):
            raise ConfigError(
                "takes names the tensors that the function takes by position, each once.",
                facts=[f"given: {', '.join(map(str, takes))}", f"known: {', '.join(get_args(Role))}"],
                fix="student_logits and teacher_logits must be among them",
            )
        return LossCaller(function, tuple(takes), None, temperature, given)
    roles = {name: _NAMES[name] for name in parameters if name in _NAMES}
    needed = [name for name, default in parameters.items() if default is inspect.Parameter.empty]
    strange = [name for name in needed if name not in roles and name != temperature]
    if (
        strange
        or len(set(roles.values())) != len(roles)
        or not {"student_logits", "teacher_logits"} <= set(roles.values())
    ):
        raise ConfigError(
            "The names of the function's parameters do not show what it takes.",
            facts=[f"parameters: {', '.join(parameters) or 'none that can be read'}"],
            fix='name it: audit_loss(function, takes=("student_logits", "teacher_logits", "labels"))',
        )
    return LossCaller(function, tuple(roles.values()), tuple(roles), temperature, given)


def _parameters(function: LossFunction) -> dict[str, object]:
    """Return name -> default of the parameters that can be given by name."""
    signature = inspect.signature(function.forward if isinstance(function, nn.Module) else function)
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: one.default for name, one in signature.parameters.items() if one.kind in kinds}

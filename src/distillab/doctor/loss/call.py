"""Call a loss function of unknown code.

Shape letters: B sequences, L positions, N scored positions, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from distillab.errors import ConfigError, DistillabError

Role = Literal["student_logits", "teacher_logits", "labels", "attention_mask"]
# sequences: (B, L, V), as the models give them, and unshifted labels. shifted: the last logits and the first labels
# are already cut off, (B, L−1, V). scored: the scored positions alone, (N, V) and (N,).
Given = Literal["sequences", "shifted", "scored"]
# A distillation loss: takes tensors of the roles, returns a tensor of any shape (a scalar, as a rule).
LossFunction = Callable[..., object]

_ROLES: dict[Role, str] = {
    "student_logits": "student_logits logits_student student logits",
    "teacher_logits": "teacher_logits logits_teacher teacher",
    "labels": "labels label targets",
    "attention_mask": "attention_mask mask",
}
_NAMES = {name: role for role, names in _ROLES.items() for name in names.split()}
_TEMPERATURES = ("temperature", "kd_temperature", "distil_temperature", "temp", "tau", "T")
# What a function may raise where it is given numbers or shapes that it does not expect.
REFUSALS = (ArithmeticError, AssertionError, LookupError, RuntimeError, ValueError, DistillabError)
# With a temperature other than 1 a mistake about it shows.
TRIED_TEMPERATURE = 2.0
# Logits that far below the others hold no mass that float32 sees in a sum, and no formula underflows on them.
_UNUSED_LOGIT = -25.0
# (prompt, answer) tokens of each row: all rows differ, every row has padding, and no two sizes that a loss might be
# divided by (tokens, positions, rows, vocabulary) are equal. The first row is the one that is watched.
_ROWS = ((4, 5), (2, 9), (6, 3), (3, 8))
_LENGTH = 13
# A scored position of the first row, also where its labels are read one position too early or too late, and where
# its last two tokens are no longer scored.
WATCHED = 4


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


@dataclass(frozen=True)
class LogitBatch:
    """What a distillation loss reads.

    student, teacher: (B, L, V) float logits. labels: (B, L) int64, not shifted, -100 where not scored.
    attention: (B, L) int64, 1 at tokens. start: columns that were put in front of the first row's first token.
    """

    student: Tensor
    teacher: Tensor
    labels: Tensor
    attention: Tensor
    start: int = 0

    def at_labels(self, ahead: int) -> Tensor:
        """Return (B, L) bool: position t, where labels[t + ahead] is a token. ahead = 1: what a causal loss scores."""
        supervised = self.labels != -100
        length = supervised.shape[1]
        marks = torch.zeros_like(supervised)
        marks[:, : length - ahead] = supervised[:, ahead:]
        return marks

    @property
    def scored(self) -> Tensor:
        """(B, L) bool: the logits of t are scored against the label of t + 1."""
        return self.at_labels(1)

    @property
    def sizes(self) -> str:
        """The batch in words."""
        rows, length, vocabulary = self.student.shape
        return f"{rows} rows × {length} positions × {vocabulary} tokens, {int(self.scored.sum())} positions scored"


def invented(vocabulary: int, *, padded: bool, seed: int) -> LogitBatch:
    """Return four rows of random logits: with right padding, or full rows."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(_ROWS), _LENGTH, vocabulary)
    labels = torch.full(shape[:2], -100)
    attention = torch.ones(shape[:2], dtype=torch.int64)
    for row, (prompt, answer) in enumerate(_ROWS):
        end = prompt + answer if padded else _LENGTH
        labels[row, prompt:end] = torch.randint(0, vocabulary, (end - prompt,), generator=generator)
        attention[row, end:] = 0
    student = torch.randn(shape, generator=generator) * 1.5
    teacher = torch.randn(shape, generator=generator) * 2.0
    return LogitBatch(student, teacher, labels, attention)


def fresh_logits(batch: LogitBatch, seed: int) -> Tensor:
    """Return (B, L, V) other random logits of the teacher's kind."""
    return torch.randn(batch.teacher.shape, generator=torch.Generator().manual_seed(seed)) * 2.0


def _each(batch: LogitBatch, change: Callable[[Tensor], Tensor], start: int = 0) -> LogitBatch:
    return LogitBatch(
        change(batch.student), change(batch.teacher), change(batch.labels), change(batch.attention), start
    )


def with_rows(batch: LogitBatch, rows: Sequence[int]) -> LogitBatch:
    """Return these rows, in this order."""
    return _each(batch, lambda tensor: tensor[list(rows)], batch.start)


def with_columns(batch: LogitBatch, columns: int, *, prompt: bool, left: bool) -> LogitBatch:
    """Add columns in front or behind: prompt tokens, or padding; their logits are arbitrary numbers."""
    rows, _, vocabulary = batch.student.shape
    generator = torch.Generator().manual_seed(columns)
    more = [torch.randn(rows, columns, vocabulary, generator=generator) * 2.0 for _ in range(2)]
    labels = torch.full((rows, columns), -100)
    attention = torch.full((rows, columns), int(prompt))

    def joined(old: Tensor, new: Tensor) -> Tensor:
        return torch.cat([new, old] if left else [old, new], dim=1)

    return LogitBatch(
        joined(batch.student, more[0]),
        joined(batch.teacher, more[1]),
        joined(batch.labels, labels),
        joined(batch.attention, attention),
        batch.start + (columns if left else 0),
    )


def padded_left(batch: LogitBatch) -> LogitBatch:
    """Return the same rows with their padding in front."""
    length = batch.attention.shape[1]
    back = (length - batch.attention.sum(dim=1, keepdim=True)) % length
    order = (torch.arange(length)[None] - back) % length
    rows = torch.arange(len(order))[:, None]
    return _each(batch, lambda tensor: tensor[rows, order], int(back[0]))


def with_unused_tokens(batch: LogitBatch, count: int) -> LogitBatch:
    """Add tokens to the vocabulary to which neither model gives any probability."""
    unused = torch.full((*batch.student.shape[:2], count), _UNUSED_LOGIT)
    return replace(
        batch, student=torch.cat([batch.student, unused], dim=2), teacher=torch.cat([batch.teacher, unused], dim=2)
    )


def with_fewer_scored(batch: LogitBatch) -> LogitBatch:
    """Remove the first row's last two scored tokens from the mask."""
    labels = batch.labels.clone()
    last = (labels[0] != -100).nonzero()[-2:, 0]
    labels[0, last] = -100
    return replace(batch, labels=labels)


def renamed(batch: LogitBatch, seed: int) -> LogitBatch:
    """Give every token another id, for both models and in the labels."""
    order = torch.randperm(batch.student.shape[2], generator=torch.Generator().manual_seed(seed))
    labels = torch.where(batch.labels >= 0, order.argsort()[batch.labels.clamp(min=0)], batch.labels)
    return replace(batch, student=batch.student[..., order], teacher=batch.teacher[..., order], labels=labels)

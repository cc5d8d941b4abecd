"""Check: are the teacher's numbers within what its number format can hold?"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from distillab.divergences import forward_kl
from distillab.doctor.page import from_page
from distillab.doctor.pair.queries import ReadRows, evaluating, logits_of, read_rows
from distillab.doctor.pair.subject import PairSubject
from distillab.records import CheckResult, Finding

CHECK_ID = "number format"
_MOST_TOKENS = 512
# a float32 copy of more would take gigabytes and, on two cores, minutes
_MOST_PARAMETERS = 1_000_000_000
FLOAT16_MAX = torch.finfo(torch.float16).max
# KL between a model and itself in float32: 3e-6 to 4e-4 in bfloat16 for the small models that were tried
_MUCH_KL_NATS = 0.02


@dataclass
class Largest:
    """The largest magnitude that any module gave, and the first module that gave a value that is no number."""

    value: float = 0.0
    module: str = ""
    broken: str | None = None
    found: list[str] = field(default_factory=list)

    def look(self, name: str, output: object) -> None:
        """Record what a module returned."""
        tensor = output[0] if isinstance(output, tuple) and output else output
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or not tensor.numel():
            return
        largest = float(tensor.detach().abs().max())
        if not largest < float("inf"):
            self.broken = self.broken or name
        elif largest > self.value:
            self.value, self.module = largest, name


def check_precision(subject: PairSubject) -> CheckResult:
    """Check the largest magnitude inside, whether all logits are finite, and how far they are from those in float32."""
    what = "the teacher's activations and logits"
    teacher, lacking = subject.teacher_model, subject.lacking_teacher
    if teacher is None or lacking is not None:
        return CheckResult(check=CHECK_ID, scope=what, skipped=lacking)
    read = read_rows(subject.input_reader, subject.examples, teacher, most_tokens=_MOST_TOKENS)
    if not read.rows:
        return CheckResult(check=CHECK_ID, scope=what, skipped="no row can be read")
    dtype = teacher.dtype
    name = str(dtype).removeprefix("torch.")
    tokens = sum(len(row) for row in read.rows)
    largest, logits = _run(teacher, subject, read)
    scope = f"the teacher in {name} on {tokens} tokens: largest magnitude {largest.value:.3g} in {largest.module}"
    broken = sum(int(_broken(row).sum()) for row in logits)
    if broken:
        return CheckResult(check=CHECK_ID, scope=scope, findings=(_not_finite(largest, name, broken, tokens),))
    findings = []
    if dtype != torch.float32 and teacher.num_parameters() <= _MOST_PARAMETERS:
        exact, exact_logits = _run(copy.deepcopy(teacher).float(), subject, read)
        kl = _kl(exact_logits, logits)
        scope += f"; KL from itself in float32 {kl:.2g} nats per token"
        if kl > _MUCH_KL_NATS:
            findings.append(_imprecise(name, kl, exact))
        largest = exact
    elif dtype != torch.float32:
        scope += f"; not compared with float32: {teacher.num_parameters():,} parameters"
    if largest.value > FLOAT16_MAX:
        findings.append(_overflows(largest, in_use=dtype == torch.float16))
    return CheckResult(check=CHECK_ID, scope=scope, findings=tuple(findings))


def _run(model: PreTrainedModel, subject: PairSubject, read: ReadRows) -> tuple[Largest, list[Tensor]]:
    with evaluating(model), _watched(model) as largest:
        logits = [logits_of(model, subject.input_reader, row).float().cpu() for row in read.rows]
    return largest, logits


@contextmanager
def _watched(model: nn.Module) -> Iterator[Largest]:
    largest = Largest()
    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: largest.look(name, output))
        for name, module in model.named_modules()
        if name
    ]
    try:
        yield largest
    finally:
        for hook in hooks:
            hook.remove()


def _broken(logits: Tensor) -> Tensor:
    """Return (L,) positions that have no softmax; −inf at some ids is a probability of zero."""
    return logits.isnan().any(dim=-1) | (logits == float("inf")).any(dim=-1) | (~logits.isfinite()).all(dim=-1)


def _kl(exact: list[Tensor], logits: list[Tensor]) -> float:
    found = [
        forward_kl(teacher_logp=a.log_softmax(-1), student_logp=b.log_softmax(-1))
        for a, b in zip(exact, logits, strict=True)
    ]
    return float(torch.cat(found).mean())


def _not_finite(largest: Largest, name: str, broken: int, tokens: int) -> Finding:
    where = f"first in module {largest.broken}" if largest.broken else "only in the logits"
    return from_page(
        "teacher-logits-not-finite",
        f"at {broken} of {tokens} positions NaN, +inf, or −inf throughout; {where}",
        f"the teacher is in {name}; the largest finite magnitude is {largest.value:.3g}",
    )


def _imprecise(name: str, kl: float, exact: Largest) -> Finding:
    return from_page(
        "teacher-imprecise",
        f"KL(float32 ‖ {name}) {kl:.3g} nats per token",
        f"largest magnitude in float32: {exact.value:.3g}, in {exact.module}",
    )


def _overflows(largest: Largest, *, in_use: bool) -> Finding:
    return from_page(
        "teacher-overflows-float16",
        f"largest magnitude {largest.value:.4g} in {largest.module}; float16 ends at {FLOAT16_MAX:,.0f}",
        severity="warning" if in_use else "note",
    )

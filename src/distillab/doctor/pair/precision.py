"""Check the teacher's numbers: are they the same twice in its mode, and within what its number format can hold?"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from distillab.divergences import forward_kl
from distillab.doctor.checks import Checked, Scope, check, from_page
from distillab.doctor.pair.subject import (
    PairSubject,
    ReadRows,
    affordable_tokens,
    device_of,
    evaluating,
    logits_of,
    readable_rows,
    scored,
)
from distillab.pairing.token_bytes import token_meanings
from distillab.records import Finding

_MOST_TOKENS = 512
# a float32 copy of more would take gigabytes and, on two cores, minutes
_MOST_PARAMETERS = 1_000_000_000
FLOAT16_MAX = torch.finfo(torch.float16).max
# KL between a model and itself in float32: 3e-6 to 4e-4 in bfloat16 for the small models that were tried
_MUCH_KL_NATS = 0.02

_FEW_TOKENS = 256
_NAMES_SHOWN = 4
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_MOST_TOKENS_OF_PADDING = 2_048
_MUCH_NOBODYS = 0.01
_MUCH_UNSHARED = 0.05


@dataclass
class Largest:
    """The largest magnitude that any module gave, and the first module that gave a value that is no number."""

    value: float = 0.0
    module: str = ""
    broken: str | None = None

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


@check("number format")
def check_precision(subject: PairSubject) -> Checked:
    """Check the largest magnitude inside, whether all logits are finite, and how far they are from those in float32."""
    yield Scope("the teacher's activations and logits")
    teacher = subject.running_teacher
    read = readable_rows(subject.input_reader, subject.examples, teacher, most_tokens=_MOST_TOKENS)
    dtype = teacher.dtype
    name = str(dtype).removeprefix("torch.")
    tokens = sum(len(row) for row in read.rows)
    largest, logits = _run(teacher, subject, read)
    scope = f"the teacher in {name} on {tokens} tokens: largest magnitude {largest.value:.3g} in {largest.module}"
    broken = sum(int(_broken(row).sum()) for row in logits)
    yield Scope(scope)
    if broken:
        where = f"first in module {largest.broken}" if largest.broken else "only in the logits"
        yield from_page(
            "teacher-logits-not-finite",
            f"at {broken} of {tokens} positions NaN, +inf, or −inf throughout; {where}",
            f"the teacher is in {name}; the largest finite magnitude is {largest.value:.3g}",
        )
        return
    if dtype != torch.float32 and teacher.num_parameters() <= _MOST_PARAMETERS:
        exact, exact_logits = _run(copy.deepcopy(teacher).float(), subject, read)
        kl = _kl(exact_logits, logits)
        yield Scope(f"{scope}; KL from itself in float32 {kl:.2g} nats per token")
        if kl > _MUCH_KL_NATS:
            yield from_page(
                "teacher-imprecise",
                f"KL(float32 ‖ {name}) {kl:.3g} nats per token",
                f"largest magnitude in float32: {exact.value:.3g}, in {exact.module}",
            )
        largest = exact
    elif dtype != torch.float32:
        yield Scope(f"{scope}; not compared with float32: {teacher.num_parameters():,} parameters")
    if largest.value > FLOAT16_MAX:
        yield from_page(
            "teacher-overflows-float16",
            f"largest magnitude {largest.value:.4g} in {largest.module}; float16 ends at {FLOAT16_MAX:,.0f}",
            severity="warning" if dtype == torch.float16 else "note",
        )


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


@check("teacher's mode")
def check_mode(subject: PairSubject) -> Checked:
    """Compare two forward passes on one row, in the teacher's current mode, position by position."""
    yield Scope("two forward passes of the teacher")
    teacher = subject.running_teacher
    read = readable_rows(subject.input_reader, subject.examples, teacher, most_tokens=_FEW_TOKENS)
    row = read.rows[0]
    noisy = [(name, module) for name, module in teacher.named_modules() if module.training and _dropout(module) > 0]
    # dropout draws from the generators that a run has seeded
    device = device_of(teacher)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        first, second = (logits_of(teacher, subject.input_reader, row) for _ in range(2))
        with evaluating(teacher):
            third, fourth = (logits_of(teacher, subject.input_reader, row) for _ in range(2))
    yield Scope(f"two forward passes of the teacher on {len(row)} tokens, in {_mode(teacher)} mode")
    if noisy and not torch.equal(first, second):
        yield _in_train_mode(noisy, first, second)
    elif not torch.allclose(third.float(), fourth.float(), atol=1e-3, rtol=1e-3):
        yield from_page("teacher-not-repeatable", _apart(third, fourth))


def _dropout(module: nn.Module) -> float:
    """Return the dropout of a module; models also keep one as a number of their attention."""
    shares = [getattr(module, name, 0.0) for name in ("p", "dropout", "attention_dropout")]
    if not isinstance(module, _DROPOUTS):
        shares = shares[1:]
    return max(float(share) for share in shares if isinstance(share, (int, float)))


def _mode(model: nn.Module) -> str:
    modes = {module.training for module in model.modules()}
    return "eval" if modes == {False} else "train" if modes == {True} else "mixed"


def _apart(first: Tensor, second: Tensor) -> str:
    kl = forward_kl(teacher_logp=first.float().log_softmax(-1), student_logp=second.float().log_softmax(-1))
    same = (first.argmax(-1) == second.argmax(-1)).float().mean()
    return f"KL between the two passes {float(kl.mean()):.3g} nats per token, same top-1 token {float(same):.1%}"


def _in_train_mode(noisy: list[tuple[str, nn.Module]], first: Tensor, second: Tensor) -> Finding:
    named = [f"{name or 'the model'} ({type(module).__name__}, {_dropout(module):g})" for name, module in noisy]
    more = len(named) - _NAMES_SHOWN
    return from_page(
        "teacher-in-train-mode",
        _apart(first, second),
        f"modules with dropout: {', '.join(named[:_NAMES_SHOWN])}" + (f" and {more} more" if more > 0 else ""),
    )


@check("vocabulary padding")
def check_padding(subject: PairSubject) -> Checked:
    """Measure the teacher's probability on ids beyond its tokenizer, and beyond the shared ids."""
    yield Scope("the teacher's probability on ids without a token")
    teacher = subject.running_teacher
    reader = subject.input_reader
    read = readable_rows(
        reader, subject.examples, teacher, most_tokens=min(_MOST_TOKENS_OF_PADDING, affordable_tokens(teacher))
    )
    nobodys, unshared, positions = [], [], 0
    unused_W = torch.zeros(0, dtype=torch.bool)
    for row in read.rows:
        with evaluating(teacher):
            logits = logits_of(teacher, reader, row)[scored(row) - 1].float()
        prob = logits.softmax(dim=-1).cpu()
        positions += len(prob)
        if not len(unused_W):
            unused_W = _unused(subject, prob.shape[1])
        nobodys.append(prob[:, unused_W].sum(dim=1))
        unshared.append(prob[:, subject.contract.shared_width :].sum(dim=1))
    width, unused = len(unused_W), int(unused_W.sum())
    mass, beyond = torch.cat(nobodys), torch.cat(unshared)
    of_it = f": {float(mass.mean()):.2g} of the probability" if unused else ""
    yield Scope(f"{width:,} logits, {unused:,} of them without a token, at {positions:,} positions{of_it}")
    if unused and float(mass.mean()) > _MUCH_NOBODYS:
        yield from_page(
            "logits-beyond-tokenizer",
            f"{unused:,} of {width:,} logits belong to no token",
            f"they get {float(mass.mean()):.1%} of the probability on average, {float(mass.max()):.1%} at most",
        )
    shared = subject.contract.shared_width
    if subject.same_ids and shared < width - unused and float(beyond.mean() - mass.mean()) > _MUCH_UNSHARED:
        yield from_page(
            "teacher-outside-shared-ids",
            f"the shared ids are those below {shared:,} of the teacher's {width:,}",
            f"{float(beyond.mean()):.1%} of its probability is on the other ids, on average over the data's positions",
        )


def _unused(subject: PairSubject, width: int) -> Tensor:
    """Return (width,) True where the teacher's tokenizer has no token of that id."""
    meanings = token_meanings(subject.teacher.tokenizer)
    unused = torch.ones(width, dtype=torch.bool)
    for id_, meaning in enumerate(meanings[:width]):
        unused[id_] = meaning.kind == "unused"
    return unused

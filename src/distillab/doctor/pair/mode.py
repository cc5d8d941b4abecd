"""Check: does the teacher give the same logits twice, in its mode?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distillab.divergences import forward_kl
from distillab.doctor.page import from_page
from distillab.doctor.pair.queries import device_of, evaluating, logits_of, read_rows
from distillab.doctor.pair.subject import PairSubject
from distillab.records import CheckResult, Finding

CHECK_ID = "teacher's mode"
_MOST_TOKENS = 256
_NAMES_SHOWN = 4
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def check_mode(subject: PairSubject) -> CheckResult:
    """Compare two forward passes on one row, in the teacher's current mode, position by position."""
    teacher = subject.teacher_model
    lacking = subject.lacking_teacher
    if teacher is None or lacking is not None:
        return CheckResult(check=CHECK_ID, scope="two forward passes of the teacher", skipped=lacking)
    read = read_rows(subject.input_reader, subject.examples, teacher, most_tokens=_MOST_TOKENS)
    if not read.rows:
        return CheckResult(check=CHECK_ID, scope="two forward passes of the teacher", skipped="no row can be read")
    row = read.rows[0]
    noisy = [(name, module) for name, module in teacher.named_modules() if module.training and _dropout(module) > 0]
    # dropout draws from the generators that a run has seeded
    device = device_of(teacher)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        first, second = (logits_of(teacher, subject.input_reader, row) for _ in range(2))
        with evaluating(teacher):
            third, fourth = (logits_of(teacher, subject.input_reader, row) for _ in range(2))
    scope = f"two forward passes of the teacher on {len(row)} tokens, in {_mode(teacher)} mode"
    findings = []
    if noisy and not torch.equal(first, second):
        findings.append(_in_train_mode(noisy, first, second))
    elif not torch.allclose(third.float(), fourth.float(), atol=1e-3, rtol=1e-3):
        findings.append(_not_repeatable(third, fourth))
    return CheckResult(check=CHECK_ID, scope=scope, findings=tuple(findings))


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


def _not_repeatable(first: Tensor, second: Tensor) -> Finding:
    return from_page("teacher-not-repeatable", _apart(first, second))

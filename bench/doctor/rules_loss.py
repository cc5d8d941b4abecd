"""Faults of losses: formulas, reductions and number formats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from bench.doctor.grammar import Mutations, Random, World
from bench.doctor.rows import IGNORED
from bench.doctor.world_loss import Loss, draw_loss, examine_loss, forward_kl, reverse_kl, scored_places

RULES: Mutations[Loss] = Mutations()
add = RULES.add


def _warm(made: Loss) -> bool:
    return made.has_temperature


def _both(made: Loss) -> bool:
    return made.hard_weight > 0


def _kl(made: Loss) -> bool:
    return made.family in ("forward_kl", "reverse_kl")


_MINIMUM = "loss-not-minimal-at-teacher"
_PADDING = "loss-depends-on-padding"


def _not_log(made: Loss, draw: Random) -> Loss:
    if draw.random() < 0.5:
        return replace(made, logp=lambda x: x.softmax(-1), family="forward_kl", divergence=forward_kl)
    if made.family == "forward_kl":
        return replace(made, teacher_logp=lambda x: x)
    return replace(made, logp=lambda x: x)


def _over(made: Loss, dim: int, both: bool) -> Loss:
    def wrong(x: Tensor) -> Tensor:
        return x.log_softmax(dim)

    return replace(made, logp=wrong, teacher_logp=wrong if both else made.teacher_logp)


def _elsewhere(made: Loss, by: int) -> Loss:
    return replace(made, ahead=by) if by < 3 else replace(made, prepare=lambda s, t: (s, t.roll(1, 0)))


def _left_out(which: str) -> Callable[[Tensor], Tensor]:
    def keep(y: Tensor) -> Tensor:
        marks = scored_places(y)
        number = marks.cumsum(1)
        left_out = {"first": number == 1, "last": number == number[:, -1:], "every second": number % 2 == 0}[which]
        return marks & ~left_out

    return keep


def _top_tokens(made: Loss, count: int, normal: bool) -> Loss:
    normal = normal or made.family == "reverse_kl"

    def pair(q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        best, at = p.topk(max(count, 2) if normal else count, -1)
        mine = q.gather(-1, at)
        return (mine.log_softmax(-1), best.log_softmax(-1)) if normal else (mine, best)

    return replace(made, pair=pair)


def _detached(made: Loss, draw: Random) -> Loss:
    if draw.random() < 0.5:
        return replace(made, logp=lambda x: x.log_softmax(-1).detach())
    return replace(made, divergence=lambda q, p: (q.argmax(-1) != p.argmax(-1)).float() + 0.0 * q.sum(-1))


def _noise(made: Loss, share: float, draw: Random) -> Loss:
    if draw.random() < 0.5:
        return replace(made, prepare=lambda s, t: (functional.dropout(s, share), t))
    return replace(made, prepare=lambda s, t: (s, t + share * torch.randn_like(t)))


def _one_width(cut: bool) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    def prepare(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        width = min(s.shape[-1], t.shape[-1])
        more = max(t.shape[-1] - s.shape[-1], 0)
        return (s[..., :width], t[..., :width]) if cut else (functional.pad(s, (0, more)), t)

    return prepare


def _both_sides(made: Loss, logp: Callable[[Tensor], Tensor]) -> Loss:
    return replace(made, logp=logp, teacher_logp=logp)


def _neighbours(x: Tensor) -> Tensor:
    p = x.softmax(-1)
    return ((p + p.roll(1, 1)) / 2).log()


# fmt: off

# ---------------------------------------------------------------- loss

# kl_div(teacher, student).
add("loss", "arguments-exchanged", "loss-another-divergence",
    lambda made, draw: replace(made, divergence={"forward_kl": reverse_kl, "reverse_kl": forward_kl}[made.family],
                               expects=made.family), _kl)
# Probabilities where kl_div wants their logarithms, or raw logits with log_target=True.
add("loss", "one-side-is-no-log-probability", "loss-mixes-logs-and-probabilities", _not_log, _kl,
    beside=f"{_MINIMUM} loss-drops-teacher-tail")
# dim=1 or dim=0, as in a classifier.
add("loss", "softmax-over-another-dimension", "loss-softmax-over-wrong-dimension",
    lambda made, draw: _over(made, draw.choice((0, 1)), draw.random() < 0.7), beside=f"{_MINIMUM} loss-mixes-positions")
# The student's logits are not divided, or by its root.
add("loss", "temperature-for-one-side", "loss-temperature-on-one-side",
    lambda made, draw: replace(made, student_temperature=draw.choice((lambda _: 1.0, lambda by: by**0.5))),
    _warm, beside=f"{_MINIMUM} loss-temperature-unusual-factor")
# T or T³ where T² is meant, or 1/T².
add("loss", "another-power-of-the-temperature", "loss-temperature-unusual-factor",
    lambda made, draw: replace(made, power=draw.choice((1.0, 3.0, 4.0, -1.0, -2.0))), _warm)
# The logits were divided at the top, or the bracket stands around both parts.
add("loss", "temperature-in-the-hard-part", "loss-temperature-in-hard-part",
    lambda made, draw: replace(made, hard_temperature=True) if draw.random() < 0.5 else replace(made, hard_power=2.0),
    lambda made: _warm(made) and _both(made))
# The parameter is kept, and forgotten.
add("loss", "temperature-never-reaches-the-logits", "loss-temperature-without-effect",
    lambda made, draw: replace(made, power=0.0, student_temperature=lambda _: 1.0, teacher_temperature=lambda _: 1.0),
    _warm)
# A server's echo, an offset of the prompt, or rows that come back in another order.
add("loss", "teacher-read-elsewhere", "loss-reads-teacher-elsewhere",
    lambda made, draw: _elsewhere(made, draw.choice((-2, -1, 1, 2, 3))),
    beside=f"{_MINIMUM} loss-counts-padding loss-misses-scored-positions")
# cross_entropy(logits, labels) as they are.
add("loss", "labels-not-shifted", "loss-labels-not-shifted",
    lambda made, draw: replace(made, hard_shift=0), _both, beside=_MINIMUM)
# The loop moves labels that are moved by the loss.
add("loss", "labels-shifted-twice", "loss-labels-shifted-twice",
    lambda made, draw: replace(made, labels=lambda y: functional.pad(y[:, 1:], (0, 1), value=IGNORED)),
    _both, beside=_MINIMUM)
# labels[:, :-1] != -100 beside logits[:, :-1].
add("loss", "mask-not-shifted", "loss-mask-not-shifted",
    lambda made, draw: replace(made, keep=lambda y: y[:, :-1] != IGNORED))
# The first or the last of each answer, or every second one.
add("loss", "some-scored-positions-left-out", "loss-misses-scored-positions",
    lambda made, draw: replace(made, keep=_left_out(draw.choice(("first", "last", "every second")))))
# The teacher's top tokens alone; what is kept may be normalised to one.
add("loss", "tail-thrown-away", "loss-drops-teacher-tail",
    lambda made, draw: _top_tokens(made, draw.choice((1, 3, 5, 8)), draw.random() < 0.5),
    _kl, beside=f"{_MINIMUM} loss-another-divergence")
# Both sides' probabilities are sorted.
add("loss", "compared-by-rank", "loss-blind-to-token-identity",
    lambda made, draw: replace(made, pair=lambda q, p: (q.sort(-1).values, p.sort(-1).values)), beside=_MINIMUM)
# One detach too many, or an argmax.
add("loss", "student-detached", f"loss-without-gradient {_MINIMUM} loss-ignores-teacher", _detached,
    lambda made: not _both(made))
# alpha was meant for the other part.
add("loss", "weight-of-the-teacher-is-zero", "loss-ignores-teacher",
    lambda made, draw: replace(made, soft_weight=0.0, hard_weight=1.0), _both)
# functional.dropout, or noise on the logits.
add("loss", "noise-that-is-never-off", "loss-not-repeatable",
    lambda made, draw: _noise(made, draw.choice((0.05, 0.1, 0.3)), draw), beside=_MINIMUM)
# teacher_logits /= 2, to save memory.
add("loss", "written-in-place", "loss-changes-its-inputs",
    lambda made, draw: replace(made, prepare=lambda s, t: (s / 2.0, t.div_(2.0)), has_temperature=False),
    beside=f"loss-temperature-misplaced loss-temperature-on-one-side {_MINIMUM}")
# A narrower student is padded with zeros, or the teacher is cut.
add("loss", "other-width-filled-or-cut", "loss-accepts-other-width",
    lambda made, draw: replace(made, prepare=_one_width(draw.random() < 0.5)), _kl)

# ---------------------------------------------------------------- reduction

# A masked loss, and .mean() over all positions or over rows times a length.
add("reduction", "divided-by-all-positions", "loss-divides-by-unscored-positions",
    lambda made, draw: replace(made, reduce=lambda kl, keep: (kl * keep).mean()), beside=_PADDING)
# No mask at all.
add("reduction", "padding-counted", "loss-counts-padding",
    lambda made, draw: replace(made, reduce=lambda kl, keep: kl.mean()),
    beside=f"{_PADDING} loss-counts-prompt loss-divides-by-unscored-positions")
# reduction="mean" divides by the vocabulary too.
add("reduction", "mean-of-every-element", "loss-divided-by-vocabulary",
    lambda made, draw: replace(made, divergence=lambda q, p: made.divergence(q, p) / q.shape[-1]),
    lambda made: made.family != "jensen_shannon")
# batchmean of (B, L, V).
add("reduction", "divided-by-rows", "loss-grows-with-length",
    lambda made, draw: replace(made, reduce=lambda kl, keep: (kl * keep).sum() / len(kl)))
# A plain mean over what is scored.
add("reduction", "mean-over-no-tokens", "loss-nan-when-nothing-is-scored",
    lambda made, draw: replace(made, reduce=lambda kl, keep: kl[keep].mean()))
# Everything up to the last label is scored, as with the attention mask.
add("reduction", "prompts-counted", "loss-counts-prompt",
    lambda made, draw: replace(made, keep=lambda y: (y[:, 1:] != IGNORED).flip(1).cumsum(1).flip(1) > 0),
    beside=_PADDING)
# The distributions of neighbours are averaged before they are compared.
add("reduction", "averaged-over-positions-first", "loss-mixes-positions",
    lambda made, draw: _both_sides(made, _neighbours),
    beside=f"{_MINIMUM} loss-counts-padding loss-counts-prompt {_PADDING}")

# ---------------------------------------------------------------- precision

# The log-softmax and the difference are taken in the model's dtype.
add("precision", "computed-in-sixteen-bits", "loss-imprecise-in-bfloat16",
    lambda made, draw: replace(_both_sides(made, lambda x: x.bfloat16().log_softmax(-1)),
                               reduce=lambda kl, keep: made.reduce(kl.float(), keep)))
# It underflows where log_softmax does not.
add("precision", "logarithm-of-a-softmax", "loss-not-finite-at-large-gaps loss-nan-at-minus-infinity",
    lambda made, draw: _both_sides(made, lambda x: x.softmax(-1).log()))
# exp(x) / sum(exp(x)) overflows at 89.
add("precision", "softmax-without-its-maximum", "loss-not-finite-at-large-gaps loss-nan-at-minus-infinity",
    lambda made, draw: replace(made, logp=lambda x: x - x.exp().sum(-1, keepdim=True).log()),
    beside="loss-not-a-number")
# p * (log p - log q), where the teacher excludes a token.
add("precision", "zero-times-infinity", "loss-nan-at-minus-infinity",
    lambda made, draw: replace(made, divergence=lambda q, p: (p.exp() * (p - q)).sum(-1)),
    lambda made: made.family == "forward_kl")
# fmt: on

LOSSES = World("loss", draw_loss, lambda made: made.trainer, examine_loss, RULES)

"""Faults of losses: formulas, reductions and number formats."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from bench.doctor.grammar import Mutations, Random, World
from bench.doctor.rows import IGNORED
from bench.doctor.world_loss import Loss, draw_loss, examine_loss, forward_kl, reverse_kl, scored_places

RULES: Mutations[Loss] = Mutations()


def _warm(made: Loss) -> bool:
    return made.has_temperature


def _both(made: Loss) -> bool:
    return made.hard_weight > 0


def _kl(made: Loss) -> bool:
    return made.family in ("forward_kl", "reverse_kl")


_MINIMUM = ["loss-not-minimal-at-teacher"]
_ELSEWHERE = ["loss-not-minimal-at-teacher", "loss-counts-padding", "loss-misses-scored-positions"]

# ---------------------------------------------------------------- loss


@RULES.rule("loss", "loss-another-divergence", fits=_kl)
def arguments_exchanged(made: Loss, draw: Random) -> Loss:
    """kl_div(teacher, student)."""
    other = {"forward_kl": reverse_kl, "reverse_kl": forward_kl}[made.family]
    return replace(made, divergence=other, expects=made.family)


@RULES.rule(
    "loss",
    "loss-mixes-logs-and-probabilities",
    fits=_kl,
    beside=["loss-not-minimal-at-teacher", "loss-drops-teacher-tail"],
)
def one_side_is_no_log_probability(made: Loss, draw: Random) -> Loss:
    """Probabilities where kl_div wants their logarithms, or raw logits with log_target=True."""
    if draw.random() < 0.5:
        return replace(made, logp=lambda x: x.softmax(-1), family="forward_kl", divergence=forward_kl)
    if made.family == "forward_kl":
        return replace(made, teacher_logp=lambda x: x)
    return replace(made, logp=lambda x: x)


@RULES.rule("loss", "loss-softmax-over-wrong-dimension", beside=["loss-not-minimal-at-teacher", "loss-mixes-positions"])
def softmax_over_another_dimension(made: Loss, draw: Random) -> Loss:
    """dim=1 or dim=0, as in a classifier."""
    dim, both = draw.choice((0, 1)), draw.random() < 0.7

    def wrong(x: Tensor) -> Tensor:
        return x.log_softmax(dim)

    return replace(made, logp=wrong, teacher_logp=wrong if both else made.teacher_logp)


@RULES.rule(
    "loss",
    "loss-temperature-on-one-side",
    fits=_warm,
    beside=["loss-not-minimal-at-teacher", "loss-temperature-unusual-factor"],
)
def temperature_for_one_side(made: Loss, draw: Random) -> Loss:
    """The student's logits are not divided, or by its root."""
    return replace(made, student_temperature=draw.choice((lambda _: 1.0, lambda temperature: temperature**0.5)))


@RULES.rule("loss", "loss-temperature-unusual-factor", fits=_warm)
def another_power_of_the_temperature(made: Loss, draw: Random) -> Loss:
    """T or T³ where T² is meant, or 1/T²."""
    return replace(made, power=draw.choice((1.0, 3.0, 4.0, -1.0, -2.0)))


@RULES.rule("loss", "loss-temperature-in-hard-part", fits=lambda made: _warm(made) and _both(made))
def temperature_in_the_hard_part(made: Loss, draw: Random) -> Loss:
    """The logits were divided at the top, or the bracket stands around both parts."""
    return replace(made, hard_temperature=True) if draw.random() < 0.5 else replace(made, hard_power=2.0)


@RULES.rule("loss", "loss-temperature-without-effect", fits=_warm)
def temperature_never_reaches_the_logits(made: Loss, draw: Random) -> Loss:
    """The parameter is kept, and forgotten."""
    return replace(made, power=0.0, student_temperature=lambda _: 1.0, teacher_temperature=lambda _: 1.0)


@RULES.rule("loss", "loss-reads-teacher-elsewhere", beside=_ELSEWHERE)
def teacher_read_elsewhere(made: Loss, draw: Random) -> Loss:
    """A server's echo, an offset of the prompt, or rows that come back in another order."""
    by = draw.choice((-2, -1, 1, 2, 3))
    return replace(made, ahead=by) if by < 3 else replace(made, prepare=lambda s, t: (s, t.roll(1, 0)))


@RULES.rule("loss", "loss-labels-not-shifted", fits=_both, beside=_MINIMUM)
def labels_not_shifted(made: Loss, draw: Random) -> Loss:
    """cross_entropy(logits, labels) as they are."""
    return replace(made, hard_shift=0)


@RULES.rule("loss", "loss-labels-shifted-twice", fits=_both, beside=_MINIMUM)
def labels_shifted_twice(made: Loss, draw: Random) -> Loss:
    """The loop moves labels that are moved by the loss."""
    return replace(made, labels=lambda y: functional.pad(y[:, 1:], (0, 1), value=IGNORED))


@RULES.rule("loss", "loss-mask-not-shifted")
def mask_not_shifted(made: Loss, draw: Random) -> Loss:
    """labels[:, :-1] != -100 beside logits[:, :-1]."""
    return replace(made, keep=lambda y: y[:, :-1] != IGNORED)


@RULES.rule("loss", "loss-misses-scored-positions")
def some_scored_positions_left_out(made: Loss, draw: Random) -> Loss:
    """The first or the last of each answer, or every second one."""
    which = draw.choice(("first", "last", "every second"))

    def keep(y: Tensor) -> Tensor:
        marks = scored_places(y)
        number = marks.cumsum(1)
        left_out = {"first": number == 1, "last": number == number[:, -1:], "every second": number % 2 == 0}[which]
        return marks & ~left_out

    return replace(made, keep=keep)


@RULES.rule(
    "loss", "loss-drops-teacher-tail", fits=_kl, beside=["loss-not-minimal-at-teacher", "loss-another-divergence"]
)
def tail_thrown_away(made: Loss, draw: Random) -> Loss:
    """The teacher's top tokens alone; what is kept may be normalised to one."""
    count, normal = draw.choice((1, 3, 5, 8)), draw.random() < 0.5
    normal = normal or made.family == "reverse_kl"

    def pair(q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        best, at = p.topk(max(count, 2) if normal else count, -1)
        mine = q.gather(-1, at)
        return (mine.log_softmax(-1), best.log_softmax(-1)) if normal else (mine, best)

    return replace(made, pair=pair)


@RULES.rule("loss", "loss-blind-to-token-identity", beside=_MINIMUM)
def compared_by_rank(made: Loss, draw: Random) -> Loss:
    """Both sides' probabilities are sorted."""
    return replace(made, pair=lambda q, p: (q.sort(-1).values, p.sort(-1).values))


@RULES.rule(
    "loss",
    "loss-without-gradient",
    "loss-not-minimal-at-teacher",
    "loss-ignores-teacher",
    fits=lambda made: not _both(made),
)
def student_detached(made: Loss, draw: Random) -> Loss:
    """One detach too many, or an argmax."""
    if draw.random() < 0.5:
        return replace(made, logp=lambda x: x.log_softmax(-1).detach())
    return replace(made, divergence=lambda q, p: (q.argmax(-1) != p.argmax(-1)).float() + 0.0 * q.sum(-1))


@RULES.rule("loss", "loss-ignores-teacher", fits=_both)
def weight_of_the_teacher_is_zero(made: Loss, draw: Random) -> Loss:
    """alpha was meant for the other part."""
    return replace(made, soft_weight=0.0, hard_weight=1.0)


@RULES.rule("loss", "loss-not-repeatable", beside=_MINIMUM)
def noise_that_is_never_off(made: Loss, draw: Random) -> Loss:
    """functional.dropout, or noise on the logits."""
    share = draw.choice((0.05, 0.1, 0.3))
    if draw.random() < 0.5:
        return replace(made, prepare=lambda s, t: (functional.dropout(s, share), t))
    return replace(made, prepare=lambda s, t: (s, t + share * torch.randn_like(t)))


@RULES.rule(
    "loss",
    "loss-changes-its-inputs",
    beside=["loss-temperature-misplaced", "loss-temperature-on-one-side", "loss-not-minimal-at-teacher"],
)
def written_in_place(made: Loss, draw: Random) -> Loss:
    """teacher_logits /= 2, to save memory."""
    return replace(made, prepare=lambda s, t: (s / 2.0, t.div_(2.0)), has_temperature=False)


@RULES.rule("loss", "loss-accepts-other-width", fits=_kl)
def other_width_filled_or_cut(made: Loss, draw: Random) -> Loss:
    """A narrower student is padded with zeros, or the teacher is cut."""

    def prepare(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        width = min(s.shape[-1], t.shape[-1])
        more = max(t.shape[-1] - s.shape[-1], 0)
        return (s[..., :width], t[..., :width]) if cut else (functional.pad(s, (0, more)), t)

    cut = draw.random() < 0.5
    return replace(made, prepare=prepare)


# ---------------------------------------------------------------- reduction


@RULES.rule("reduction", "loss-divides-by-unscored-positions", beside=["loss-depends-on-padding"])
def divided_by_all_positions(made: Loss, draw: Random) -> Loss:
    """A masked loss, and .mean() over all positions or over rows times a length."""
    return replace(made, reduce=lambda kl, keep: (kl * keep).mean())


@RULES.rule(
    "reduction",
    "loss-counts-padding",
    beside=["loss-depends-on-padding", "loss-counts-prompt", "loss-divides-by-unscored-positions"],
)
def padding_counted(made: Loss, draw: Random) -> Loss:
    """No mask at all."""
    return replace(made, reduce=lambda kl, keep: kl.mean())


@RULES.rule("reduction", "loss-divided-by-vocabulary", fits=lambda made: made.family != "jensen_shannon")
def mean_of_every_element(made: Loss, draw: Random) -> Loss:
    """reduction="mean" divides by the vocabulary too."""
    divergence = made.divergence
    return replace(made, divergence=lambda q, p: divergence(q, p) / q.shape[-1])


@RULES.rule("reduction", "loss-grows-with-length")
def divided_by_rows(made: Loss, draw: Random) -> Loss:
    """batchmean of (B, L, V)."""
    return replace(made, reduce=lambda kl, keep: (kl * keep).sum() / len(kl))


@RULES.rule("reduction", "loss-nan-when-nothing-is-scored")
def mean_over_no_tokens(made: Loss, draw: Random) -> Loss:
    """A plain mean over what is scored."""
    return replace(made, reduce=lambda kl, keep: kl[keep].mean())


@RULES.rule("reduction", "loss-counts-prompt", beside=["loss-depends-on-padding"])
def prompts_counted(made: Loss, draw: Random) -> Loss:
    """Everything up to the last label is scored, as with the attention mask."""
    return replace(made, keep=lambda y: (y[:, 1:] != IGNORED).flip(1).cumsum(1).flip(1) > 0)


@RULES.rule(
    "reduction",
    "loss-mixes-positions",
    beside=["loss-not-minimal-at-teacher", "loss-counts-padding", "loss-counts-prompt", "loss-depends-on-padding"],
)
def averaged_over_positions_first(made: Loss, draw: Random) -> Loss:
    """The distributions of neighbours are averaged before they are compared."""

    def mixed(x: Tensor) -> Tensor:
        p = x.softmax(-1)
        return ((p + p.roll(1, 1)) / 2).log()

    return replace(made, logp=mixed, teacher_logp=mixed)


# ---------------------------------------------------------------- precision


@RULES.rule("precision", "loss-imprecise-in-bfloat16")
def computed_in_sixteen_bits(made: Loss, draw: Random) -> Loss:
    """The log-softmax and the difference are taken in the model's dtype."""
    return replace(
        made,
        logp=lambda x: x.bfloat16().log_softmax(-1),
        teacher_logp=lambda x: x.bfloat16().log_softmax(-1),
        reduce=lambda kl, keep: made.reduce(kl.float(), keep),
    )


@RULES.rule("precision", "loss-not-finite-at-large-gaps", "loss-nan-at-minus-infinity")
def logarithm_of_a_softmax(made: Loss, draw: Random) -> Loss:
    """It underflows where log_softmax does not."""
    return replace(made, logp=lambda x: x.softmax(-1).log(), teacher_logp=lambda x: x.softmax(-1).log())


@RULES.rule("precision", "loss-not-finite-at-large-gaps", "loss-nan-at-minus-infinity", beside=["loss-not-a-number"])
def softmax_without_its_maximum(made: Loss, draw: Random) -> Loss:
    """exp(x) / sum(exp(x)) overflows at 89."""
    return replace(made, logp=lambda x: x - x.exp().sum(-1, keepdim=True).log())


@RULES.rule("precision", "loss-nan-at-minus-infinity", fits=lambda made: made.family == "forward_kl")
def zero_times_infinity(made: Loss, draw: Random) -> Loss:
    """p * (log p - log q), where the teacher excludes a token."""
    return replace(made, divergence=lambda q, p: (p.exp() * (p - q)).sum(-1))


LOSSES = World("loss", draw_loss, lambda made: made.trainer, examine_loss, RULES)

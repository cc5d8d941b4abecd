"""Distillation losses as people write them: sound ones, and the same with a mistake planted.

Every function here has the parameter names by which the audit calls it; GOOD and FAULTS say how it is called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812, as everybody writes it

from distillab.config.terms import TokenDivergenceConfig
from distillab.divergences import forward_kl as ours_forward_kl
from distillab.divergences import logmass_outside, with_tail_cell
from distillab.divergences.by_name import divergence
from distillab.models.scoring import at_scored


@dataclass(frozen=True)
class Case:
    """A function, how it is called, and what the audit must say of it.

    found: the id that must be among the findings (faults). says: words of the description (good ones).
    """

    name: str
    function: Callable[..., object]
    found: str = ""
    says: tuple[str, ...] = ()
    call: tuple[tuple[str, object], ...] = ()


Each = Callable[[Tensor, Tensor], Tensor]
batchmean_of = partial(F.kl_div, reduction="batchmean")


def kl(student: Tensor, teacher: Tensor) -> Tensor:
    """Forward KL per position, as torch gives it."""
    logp, target = F.log_softmax(student, -1), F.log_softmax(teacher, -1)
    return F.kl_div(logp, target, log_target=True, reduction="none").sum(-1)


def reverse(student: Tensor, teacher: Tensor) -> Tensor:
    q, p = F.log_softmax(student, -1), F.log_softmax(teacher, -1)
    return (q.exp() * (q - p)).sum(-1)


def naive(p: Tensor, q: Tensor) -> Tensor:
    """KL(p ‖ q) of probabilities."""
    return (p * (p.log() - q.log())).sum(-1)


def entropy(logits: Tensor) -> Tensor:
    q = logits.log_softmax(-1)
    return -(q.exp() * q).sum(-1)


def shifted(student: Tensor, teacher: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Both sides' logits, the labels that they predict, and where these are scored."""
    labels = labels[:, 1:]
    return student[:, :-1], teacher[:, :-1], labels, labels != -100


def mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum()


def hard(student: Tensor, labels: Tensor, **settings: float) -> Tensor:
    return F.cross_entropy(student.reshape(-1, student.shape[-1]), labels.reshape(-1), **settings)


def over_tokens(each: Each) -> Callable[..., Tensor]:
    """The mean of `each` over the scored tokens."""

    def loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        s, t, _, mask = shifted(student_logits, teacher_logits, labels)
        return mean(each(s, t), mask)

    return loss


def selected(each: Each) -> Callable[..., Tensor]:
    """`each` of the scored rows."""

    def loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        s, t, _, mask = shifted(student_logits, teacher_logits, labels)
        return each(s[mask], t[mask])

    return loss


def with_labels(each: Each, weight: float = 1.0, own: float = 1.0) -> Callable[..., Tensor]:
    """The labels' cross-entropy too."""

    def loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        s, t, targets, mask = shifted(student_logits, teacher_logits, labels)
        return own * hard(s, targets) + weight * mean(each(s, t), mask)

    return loss


def at_temperature(each: Callable[[Tensor, Tensor, float], Tensor], default: float = 1.0) -> Callable[..., Tensor]:
    """The mean over the scored tokens, with a temperature."""

    def loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float = default) -> Tensor:
        s, t, _, mask = shifted(student_logits, teacher_logits, labels)
        return mean(each(s, t, temperature), mask)

    return loss


token_mean_kl = over_tokens(kl)
teacher_answers = selected(lambda s, t: F.cross_entropy(s, t.argmax(-1)))
jeffreys = over_tokens(lambda s, t: kl(s, t) + reverse(s, t))
sorted_probabilities = with_labels(lambda s, t: rank_distance(s, t), 1.5)
after_the_softmax = at_temperature(
    lambda s, t, by: F.kl_div(s.log_softmax(-1) / by, t.softmax(-1) / by, reduction="none").sum(-1), 2.0
)
temperature_on_student_only = at_temperature(lambda s, t, by: kl(s / by, t))

# ---------------------------------------------------------------- sound


def hinton(student_logits, teacher_logits, labels, temperature=2.0, alpha=0.3):
    s, t, targets, mask = shifted(student_logits, teacher_logits, labels)
    return alpha * hard(s, targets) + (1 - alpha) * temperature**2 * mean(kl(s / temperature, t / temperature), mask)


def reverse_kl_per_sequence(student_logits, teacher_logits, labels):
    s, t, _, mask = shifted(student_logits, teacher_logits, labels)
    return ((reverse(s, t) * mask).sum(1) / mask.sum(1)).mean()


def trl_jsd(student_logits, teacher_logits, labels, temperature=1.0, beta=0.1):
    """As TRL's generalised JSD: its caller shifts."""
    q, p = F.log_softmax(student_logits / temperature, -1), F.log_softmax(teacher_logits / temperature, -1)
    mixture = torch.logsumexp(torch.stack([p + torch.tensor(beta).log(), q + torch.tensor(1 - beta).log()]), dim=0)
    to_teacher = F.kl_div(mixture, p, reduction="none", log_target=True)
    to_student = F.kl_div(mixture, q, reduction="none", log_target=True)
    jsd = (beta * to_teacher + (1 - beta) * to_student)[labels != -100]
    return jsd.sum() / (labels != -100).sum()


def all_tokens(student_logits, teacher_logits, attention_mask):
    mask = attention_mask[:, 1:].bool()
    return mean(kl(student_logits[:, :-1], teacher_logits[:, :-1]), mask)


def flat_batchmean(student_logits, teacher_logits):
    return F.kl_div(F.log_softmax(student_logits, -1), F.softmax(teacher_logits, -1), reduction="batchmean")


def smoothed(student_logits, teacher_logits, labels):
    s, t, targets, mask = shifted(student_logits, teacher_logits, labels)
    return 0.5 * hard(s, targets, label_smoothing=0.1) + 0.5 * mean(kl(s, t), mask)


def rank_distance(s, t):
    return (s.softmax(-1).sort(-1).values - t.softmax(-1).sort(-1).values).abs().sum(-1)


def top_5_with_rest(student_logits, teacher_logits, labels):
    s, t, _, mask = shifted(student_logits, teacher_logits, labels)
    kept = t[mask].topk(5).indices
    q, p = (x[mask].log_softmax(-1).gather(-1, kept) for x in (s, t))
    q, p = (torch.cat([x, torch.log1p(-x.exp().sum(-1, keepdim=True))], dim=-1) for x in (q, p))
    return (p.exp() * (p - q)).sum(-1).mean()


def careful(student_logits, teacher_logits, labels, temperature=1.0):
    """What the pages recommend: float32, −inf looked after, nothing scored looked after, width checked."""
    assert student_logits.shape == teacher_logits.shape
    s, t, _, mask = shifted(student_logits.float(), teacher_logits.detach().float(), labels)
    q, p = (x.log_softmax(-1).clamp(min=-1e4) for x in (s / temperature, t / temperature))
    return ((p.exp() * (p - q)).sum(-1) * mask).sum() / mask.sum().clamp(min=1)


def sampled_estimate(student_logits, teacher_logits, labels):
    """The k3 estimate of a reverse KL from the labels' tokens alone."""
    s, t, targets, mask = shifted(student_logits, teacher_logits, labels)
    ids = targets.clamp(min=0)[..., None]
    gap = (t.log_softmax(-1).gather(-1, ids) - s.log_softmax(-1).gather(-1, ids))[..., 0]
    return mean(gap.exp() - 1 - gap, mask)


def with_epsilon(s, t):
    p, q = t.softmax(-1), s.softmax(-1)
    return (p * ((p + 1e-8).log() - (q + 1e-8).log())).sum(-1)


def standard(logits):
    return (logits - logits.mean(-1, keepdim=True)) / logits.std(-1, keepdim=True)


def decoupled(student_logits, teacher_logits, labels):
    """DKD: the label's token against the rest, and the rest among themselves."""
    s, t, targets, mask = shifted(student_logits, teacher_logits, labels)
    chosen = F.one_hot(targets.clamp(min=0), s.shape[-1]).bool()
    q, p = s.softmax(-1), t.softmax(-1)
    q2, p2 = (torch.stack([(x * chosen).sum(-1), (x * ~chosen).sum(-1)], dim=-1) for x in (q, p))
    target = (p2 * (p2.log() - q2.log())).sum(-1)
    return mean(target + 2.0 * kl(s.masked_fill(chosen, -1e4), t.masked_fill(chosen, -1e4)), mask)


def mixed_target(student_logits, teacher_logits, labels):
    """One cross-entropy against a mixture of the label and the teacher."""
    s, t, targets, mask = shifted(student_logits, teacher_logits, labels)
    goal = 0.4 * F.one_hot(targets.clamp(min=0), s.shape[-1]) + 0.6 * t.softmax(-1)
    return mean(-(goal * s.log_softmax(-1)).sum(-1), mask)


def uncertain(s, t):
    """The half of the scored tokens of which the teacher is least sure."""
    chosen = entropy(t).topk(max(len(s) // 2, 1)).indices
    return kl(s[chosen], t[chosen]).mean()


def focal(student_logits, teacher_logits, labels):
    s, t, targets, mask = shifted(student_logits, teacher_logits, labels)
    nats = F.cross_entropy(s[mask], targets[mask], reduction="none")
    return ((1 - (-nats).exp()) ** 2 * nats).mean() + mean(kl(s, t), mask)


def per_sequence(student_logits, teacher_logits, labels):
    s, t, _, mask = shifted(student_logits, teacher_logits, labels)
    return (kl(s, t) * mask).sum(1) / mask.sum(1)


def log_probability_distance(student, teacher, mask):
    mask = mask[:, 1:]
    return mean((student.log_softmax(-1) - teacher.log_softmax(-1))[:, :-1].square().mean(-1), mask)


def gated(student_logits, teacher_logits, labels, *, T, weight=0.5):
    """A labels' part that the teacher's confidence weighs, and a temperature that has no default."""
    s, t, targets, mask = shifted(student_logits, teacher_logits.detach(), labels)
    sure = t.softmax(-1).amax(-1)[mask]
    nats = F.cross_entropy(s[mask], targets[mask], reduction="none")
    return weight * ((1 - sure) * nats).mean() + (1 - weight) * kl(s[mask] / T, t[mask] / T).mean() * T**2


class HintonModule(nn.Module):
    """A loss as a module, with its own settings."""

    def __init__(self) -> None:
        super().__init__()
        self.kl = nn.KLDivLoss(reduction="none")

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        s, t, _, mask = shifted(student_logits / 3.0, teacher_logits / 3.0, labels)
        return 9.0 * mean(self.kl(s.log_softmax(-1), t.softmax(-1)).sum(-1), mask)


def ours(name: str, **parameters: float) -> Callable[..., Tensor]:
    """One of distillab's divergences on the scored rows."""
    function = divergence(name, parameters)

    def of_rows(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        q, p = student_logits.log_softmax(-1), teacher_logits.log_softmax(-1)
        return function(student_logp=q, teacher_logp=p.detach()).mean()

    return of_rows


def ours_with_shift(student_logits, teacher_logits, labels, attention_mask):
    """distillab's own scoring and its temperature setting."""
    settings = TokenDivergenceConfig(temperature=2.0, rescale_by_temperature_squared=True)
    batch = {"answer_mask": labels != -100, "attention_mask": attention_mask}
    s, t = at_scored(student_logits, batch), at_scored(teacher_logits, batch)
    q, p = ((x / settings.temperature).log_softmax(-1) for x in (s, t))
    return settings.temperature**2 * ours_forward_kl(student_logp=q, teacher_logp=p.detach()).mean()


def ours_top_k(student_logits, teacher_logits):
    q, p = student_logits.log_softmax(-1), teacher_logits.detach().log_softmax(-1)
    kept_logp, kept = p.topk(6, dim=-1)
    q, p = with_tail_cell(
        student_logp=q, kept_ids=kept, kept_logp=kept_logp, tail_logmass=logmass_outside(logp=p, kept_ids=kept)
    )
    return ours_forward_kl(student_logp=q, teacher_logp=p).mean()


_SCORED = (("given", "scored"),)
# fmt: off
GOOD: tuple[Case, ...] = (
    Case("forward KL, mean over tokens", token_mean_kl, says=("forward KL", "mean over scored tokens")),
    Case("forward KL of selected rows", selected(lambda s, t: batchmean_of(s.log_softmax(-1), t.softmax(-1))),
         says=("forward KL", "mean over scored tokens")),
    Case("Hinton", hinton, says=("forward KL", "T = 2", "times T² and 0.7", "weight 0.3")),
    Case("soft cross-entropy", over_tokens(lambda s, t: -(t.softmax(-1) * s.log_softmax(-1)).sum(-1)),
         says=("forward KL", "the teacher's entropy")),
    Case("reverse KL per sequence", reverse_kl_per_sequence, says=("reverse KL", "each sequence's tokens, then over")),
    Case("sum of tokens", selected(lambda s, t: kl(s, t).sum()), says=("forward KL", "sum over tokens")),
    Case("TRL's JSD, shifted by its caller", trl_jsd, says=("weight 0.1", "T = 2"), call=(("given", "shifted"),)),
    Case("TRL's JSD, unsaid", trl_jsd, says=("Jensen-Shannon, teacher's weight 0.1", "caller has shifted")),
    Case("all tokens", all_tokens, says=("forward KL", "all tokens that some position predicts")),
    Case("batchmean of flat rows", flat_batchmean, says=("forward KL", "mean over scored tokens"), call=_SCORED),
    Case("total variation", over_tokens(lambda s, t: 0.5 * (s.softmax(-1) - t.softmax(-1)).abs().sum(-1)),
         says=("total variation",)),
    Case("logit matching", selected(F.mse_loss), says=("squared difference of logits",)),
    Case("label smoothing", smoothed, says=("forward KL", "label smoothing 0.1", "weight 0.5")),
    Case("ULD", sorted_probabilities, says=("distance of sorted probabilities", "times 1.5", "weight 1")),
    Case("top 5 with a cell for the rest", top_5_with_rest),
    Case("the teacher's choices", teacher_answers, says=("the teacher's most likely token",)),
    Case("skewed forward KL",
         over_tokens(lambda s, t: naive(t.softmax(-1), 0.1 * t.softmax(-1) + 0.9 * s.softmax(-1))),
         says=("skewed forward KL, skew 0.1",)),
    Case("Jeffreys", jeffreys, says=("0.5 · forward KL + 0.5 · reverse KL", "times 2")),
    Case("careful", careful, says=("forward KL", "T = 2", "mean over scored tokens")),
    Case("tokens weighted by confidence", over_tokens(lambda s, t: kl(s, t) * t.softmax(-1).amax(-1).detach()),
         says=("forward KL", "positions weigh differently")),
    Case("k3 estimate", sampled_estimate, says=("labels and teacher act together",)),
    Case("one value a token", selected(kl), says=("forward KL", "not reduced")),
    Case("both directions and labels", with_labels(lambda s, t: 0.7 * kl(s, t) + 0.3 * reverse(s, t)),
         says=("0.7 · forward KL + 0.3 · reverse KL", "weight 1")),
    Case("ε in the logarithms", over_tokens(with_epsilon), says=("forward KL",)),
    Case("standardised logits", over_tokens(lambda s, t: 9.0 * kl(standard(s), standard(t)))),
    Case("decoupled", decoupled, says=("labels and teacher act together",)),
    Case("mixed target", mixed_target, says=("forward KL", "times 0.6", "weight 0.4")),
    Case("cosine of logits", over_tokens(lambda s, t: 1 - F.cosine_similarity(s, t, dim=-1))),
    Case("uncertain tokens only", selected(uncertain)),
    Case("focal labels", focal, says=("labels and teacher act together",)),
    Case("small entropy bonus", over_tokens(lambda s, t: kl(s, t) - 0.01 * entropy(s))),
    Case("reverse KL and an entropy bonus", over_tokens(lambda s, t: reverse(s, t) - 0.05 * entropy(s))),
    Case("softened teacher", over_tokens(lambda s, t: naive(0.95 * t.softmax(-1) + 0.05 / t.shape[-1], s.softmax(-1)))),
    Case("one value a sequence", per_sequence, says=("not reduced",)),
    Case("distance of log-probabilities", log_probability_distance),
    Case("labels weighed by the teacher", gated),
    Case("module", HintonModule(), says=("forward KL", "T = 3", "times T²")),
    Case("ours: forward KL", ours("forward_kl"), says=("forward KL",), call=_SCORED),
    Case("ours: reverse KL", ours("reverse_kl"), says=("reverse KL",), call=_SCORED),
    Case("ours: JSD", ours("jensen_shannon", teacher_weight=0.3), says=("weight 0.3",), call=_SCORED),
    Case("ours: skewed reverse KL", ours("skewed_reverse_kl", skew=0.1), says=("skew 0.1",), call=_SCORED),
    Case("ours: adaptive KL", ours("adaptive_kl", head_mass=0.5), says=("adaptive KL",), call=_SCORED),
    Case("ours: total variation", ours("total_variation"), says=("total variation",), call=_SCORED),
    Case("ours: α-β", ours("alpha_beta", alpha=0.2, beta=0.7), says=("α-β",), call=_SCORED),
    Case("ours: with the shift", ours_with_shift, says=("forward KL", "T = 2", "times T²")),
    Case("ours: top k with a tail cell", ours_top_k, call=_SCORED),
    Case("packed rows, no padding", lambda student_logits, teacher_logits: kl(student_logits, teacher_logits).mean(),
         says=("forward KL", "B × L"), call=(("padded", False),)),
)
# fmt: on

# ---------------------------------------------------------------- with a mistake


def mean_reduction(student_logits, teacher_logits):
    return nn.KLDivLoss(reduction="mean")(student_logits.log_softmax(-1), teacher_logits.softmax(-1))


def mean_over_everything(student_logits, teacher_logits, labels):
    s, t, _, mask = shifted(student_logits, teacher_logits, labels)
    return (kl(s, t) * mask).mean()


def batchmean(student_logits, teacher_logits, labels):
    s, t, _, mask = shifted(student_logits, teacher_logits, labels)
    values = F.kl_div(s.log_softmax(-1), t.softmax(-1), reduction="none") * mask[..., None]
    return values.sum() / len(s)


def notebook_hinton(student_logits, teacher_logits, labels, temperature=2.0):
    """The widespread one: batchmean over (B, L, V), no mask in the teacher's part."""
    soft = F.kl_div(
        F.log_softmax(student_logits / temperature, -1),
        F.softmax(teacher_logits / temperature, -1),
        reduction="batchmean",
    )
    return 0.5 * hard(student_logits[:, :-1], labels[:, 1:]) + 0.5 * soft * temperature**2


def prompt_too(student_logits, teacher_logits, labels, attention_mask):
    s, t = student_logits[:, :-1], teacher_logits[:, :-1]
    return hard(s, labels[:, 1:]) + mean(kl(s, t), attention_mask[:, 1:])


def distillkit_mask(student_logits, teacher_logits, labels):
    """The labels' part shifts; the mask of the teacher's part does not."""
    mask = labels >= 0
    return hard(student_logits[:, :-1], labels[:, 1:]) + mean(kl(student_logits, teacher_logits), mask)


def labels_not_shifted(student_logits, teacher_logits, labels):
    s, t, _, mask = shifted(student_logits, teacher_logits, labels)
    return hard(student_logits, labels) + mean(kl(s, t), mask)


def labels_shifted_twice(student_logits, teacher_logits, labels):
    s, t, targets, mask = shifted(student_logits, teacher_logits, labels)
    return hard(s[:, :-1], targets[:, 1:]) + mean(kl(s, t), mask)


def teacher_one_ahead(student_logits, teacher_logits, labels):
    mask = labels[:, 1:] != -100
    return mean(kl(student_logits[:, :-1], teacher_logits[:, 1:]), mask)


def softmax_over_rows(student_logits, teacher_logits):
    """dim=0 of flat rows."""
    return F.kl_div(student_logits.log_softmax(0), teacher_logits.softmax(0), reduction="batchmean")


def gkd_temperature(student_logits, teacher_logits, labels, temperature=0.9):
    """As TRL's GKD: the setting is for sampling, and never reaches the loss."""
    del temperature
    return token_mean_kl(student_logits, teacher_logits, labels)


def only_value_tempered(student_logits, teacher_logits, labels, temperature=1.0):
    return token_mean_kl(student_logits, teacher_logits, labels) * temperature**2


def tempered_labels(student_logits, teacher_logits, labels, temperature=2.0):
    s, t, targets, mask = shifted(student_logits / temperature, teacher_logits / temperature, labels)
    return 0.5 * hard(s, targets) + 0.5 * temperature**2 * mean(kl(s, t), mask)


forward_named_reverse = selected(lambda s, t: batchmean_of(t.log_softmax(-1), s.softmax(-1)))


def forward_kl_loss(student_logits, teacher_logits, labels):
    """Its name says forward; the arguments of kl_div stand as in the formula."""
    return forward_named_reverse(student_logits, teacher_logits, labels)


def student_detached(student_logits, teacher_logits, labels):
    return token_mean_kl(student_logits.detach(), teacher_logits, labels)


def teacher_dropped(student_logits, teacher_logits, labels, alpha=1.0):
    s, t, targets, mask = shifted(student_logits, teacher_logits, labels)
    return alpha * hard(s, targets) + (1 - alpha) * mean(kl(s, t), mask)


def top_k_without_rest(student_logits, teacher_logits, labels):
    s, t, _, mask = shifted(student_logits, teacher_logits, labels)
    kept_logits, kept = t[mask].topk(8)
    q, p = s[mask].log_softmax(-1).gather(-1, kept), kept_logits.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean()


def top_k_both_renormalised(student_logits, teacher_logits):
    kept_logits, kept = teacher_logits.topk(8)
    q = student_logits.gather(-1, kept).log_softmax(-1)
    p = kept_logits.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean()


def prompt_width(student_logits, teacher_logits, labels):
    """Cuts at the longest prompt of the batch."""
    widest = int((labels != -100).int().argmax(dim=1).max())
    s, t, _, mask = shifted(student_logits, teacher_logits, labels)
    return mean(kl(s, t)[:, widest - 1 :], mask[:, widest - 1 :])


def divides_in_place(student_logits, teacher_logits, labels, temperature=2.0):
    teacher_logits.div_(temperature)
    s, t, _, mask = shifted(student_logits / temperature, teacher_logits, labels)
    return mean(kl(s, t), mask)


def cuts_the_wider(student_logits, teacher_logits, labels):
    width = min(student_logits.shape[-1], teacher_logits.shape[-1])
    p = teacher_logits.softmax(-1)[..., :width]
    s, t, _, mask = shifted(student_logits[..., :width], p, labels)
    return mean(-(t * s.log_softmax(-1)).sum(-1), mask)


def dropout_inside(student_logits, teacher_logits, labels):
    return token_mean_kl(F.dropout(student_logits, 0.3), teacher_logits, labels)


def cut_vocabulary(student_logits, teacher_logits, labels):
    return token_mean_kl(student_logits[..., :19], teacher_logits[..., :19], labels)


def confidence_of_the_batch(student_logits, teacher_logits, labels):
    """Logits normalised by statistics of the whole batch."""
    s, t, _, mask = shifted(student_logits, teacher_logits, labels)
    s, t = s / s.std(), t - t.mean(dim=(0, 1))
    return mean(kl(s, t), mask)


def masks_by_row_end(student_logits, teacher_logits, labels):
    """Counts from the end of the padded row."""
    s, t, _, mask = shifted(student_logits, teacher_logits, labels)
    ramp = torch.arange(mask.shape[1], 0, -1)[None].float()
    return (kl(s, t) * mask * ramp).sum() / mask.sum()


def ignored_labels_become_token_0(student_logits, teacher_logits, labels):
    s, t, targets, mask = shifted(student_logits, teacher_logits, labels)
    return hard(s, targets.clamp(min=0)) + mean(kl(s, t), mask)


def k1_as_a_loss(student_logits, teacher_logits, labels):
    s, t, targets, mask = shifted(student_logits, teacher_logits, labels)
    ids = targets.clamp(min=0)[..., None]
    return mean((s.log_softmax(-1).gather(-1, ids) - t.log_softmax(-1).gather(-1, ids))[..., 0], mask)


_SEQUENCES = (("given", "sequences"),)
# fmt: off
FAULTS: tuple[Case, ...] = (
    Case("KLDivLoss mean", mean_reduction, "loss-divided-by-vocabulary"),
    Case("mean over selected rows and vocabulary",
         selected(lambda s, t: F.kl_div(s.log_softmax(-1), t.softmax(-1), reduction="mean")),
         "loss-divided-by-vocabulary"),
    Case("mean over everything", mean_over_everything, "loss-divides-by-unscored-positions"),
    Case("batchmean of (B, L, V)", batchmean, "loss-grows-with-length"),
    Case("notebook: padding", notebook_hinton, "loss-counts-padding"),
    Case("notebook: batchmean", notebook_hinton, "loss-grows-with-length"),
    Case("prompt in the teacher's part", prompt_too, "loss-counts-prompt"),
    Case("mask not shifted", distillkit_mask, "loss-mask-not-shifted"),
    Case("caller that does not shift", trl_jsd, "loss-mask-not-shifted", call=_SEQUENCES),
    Case("labels not shifted", labels_not_shifted, "loss-labels-not-shifted"),
    Case("labels shifted twice", labels_shifted_twice, "loss-labels-shifted-twice"),
    Case("shifted by its caller too", token_mean_kl, "loss-labels-shifted-twice", call=(("given", "shifted"),)),
    Case("teacher one position ahead", teacher_one_ahead, "loss-reads-teacher-elsewhere"),
    Case("softmax over positions", over_tokens(lambda s, t: naive(t.softmax(1), s.softmax(1))),
         "loss-softmax-over-wrong-dimension"),
    Case("softmax over rows", softmax_over_rows, "loss-softmax-over-wrong-dimension", call=_SCORED),
    Case("log_target, probabilities",
         selected(lambda s, t: batchmean_of(s.log_softmax(-1), t.softmax(-1), log_target=True)),
         "loss-mixes-logs-and-probabilities"),
    Case("log_target, logits", selected(lambda s, t: batchmean_of(s.log_softmax(-1), t, log_target=True)),
         "loss-mixes-logs-and-probabilities"),
    Case("log_target forgotten", selected(lambda s, t: batchmean_of(s.log_softmax(-1), t.log_softmax(-1))),
         "loss-not-a-number"),
    Case("probabilities as input", selected(lambda s, t: batchmean_of(s.softmax(-1), t.softmax(-1))),
         "loss-mixes-logs-and-probabilities"),
    Case("logits as input", selected(lambda s, t: batchmean_of(s, t.softmax(-1))), "loss-mixes-logs-and-probabilities"),
    Case("softmax twice", over_tokens(lambda s, t: kl(s.softmax(-1), t.softmax(-1))),
         "loss-mixes-logs-and-probabilities"),
    Case("raw teacher logits as weights", over_tokens(lambda s, t: -(t * s.log_softmax(-1)).sum(-1)),
         "loss-mixes-logs-and-probabilities"),
    Case("temperature on the student only", temperature_on_student_only, "loss-temperature-on-one-side"),
    Case("temperature on the teacher only", with_labels(lambda s, t: kl(s, t / 3.0), 0.5, 0.5),
         "loss-temperature-on-one-side"),
    Case("temperature never used", gkd_temperature, "loss-temperature-without-effect"),
    Case("temperature multiplies", at_temperature(lambda s, t, by: kl(s * by, t * by)), "loss-temperature-misplaced"),
    Case("only the value is tempered", only_value_tempered, "loss-temperature-misplaced"),
    Case("times T", at_temperature(lambda s, t, by: kl(s / by, t / by) * by), "loss-temperature-unusual-factor"),
    Case("labels tempered too", tempered_labels, "loss-temperature-in-hard-part"),
    Case("forward expected", forward_named_reverse, "loss-another-divergence", call=(("expects", "forward_kl"),)),
    Case("forward by its name", forward_kl_loss, "loss-another-divergence"),
    Case("student detached", student_detached, "loss-without-gradient"),
    Case("reverse KL with detached weights",
         over_tokens(lambda s, t: (s.softmax(-1).detach() * (s.log_softmax(-1) - t.log_softmax(-1))).sum(-1)),
         "loss-without-gradient"),
    Case("teacher has weight 0", teacher_dropped, "loss-ignores-teacher"),
    Case("k1 estimate as a loss", k1_as_a_loss, "loss-ignores-teacher"),
    Case("wrong sign", with_labels(kl, -0.5), "loss-not-minimal-at-teacher"),
    Case("entropy with the wrong sign",
         over_tokens(lambda s, t: entropy(s) - (s.softmax(-1) * t.log_softmax(-1)).sum(-1)),
         "loss-not-minimal-at-teacher"),
    Case("top k without the rest", top_k_without_rest, "loss-drops-teacher-tail"),
    Case("top k, both renormalised", top_k_both_renormalised, "loss-drops-teacher-tail", call=_SCORED),
    Case("argmax of the teacher", teacher_answers, "loss-drops-teacher-tail"),
    Case("cut at the longest prompt", prompt_width, "loss-misses-scored-positions"),
    Case("divided in place", divides_in_place, "loss-changes-its-inputs"),
    Case("logarithm of a softmax: −inf", over_tokens(lambda s, t: naive(t.softmax(-1), s.softmax(-1))),
         "loss-nan-at-minus-infinity"),
    Case("logarithm of a softmax: gaps", over_tokens(lambda s, t: naive(t.softmax(-1), s.softmax(-1))),
         "loss-not-finite-at-large-gaps"),
    Case("nothing scored", token_mean_kl, "loss-nan-when-nothing-is-scored"),
    Case("bfloat16", trl_jsd, "loss-imprecise-in-bfloat16", call=(("given", "shifted"),)),
    Case("wider teacher cut after its softmax", cuts_the_wider, "loss-accepts-other-width"),
    Case("dropout", dropout_inside, "loss-not-repeatable"),
    Case("vocabulary cut", cut_vocabulary, "loss-depends-on-token-order"),
    Case("sorted probabilities", sorted_probabilities, "loss-blind-to-token-identity"),
    Case("top k of each side", over_tokens(lambda s, t: kl(s.topk(8).values, t.topk(8).values)),
         "loss-blind-to-token-identity"),
    Case("errors cut off", selected(lambda s, t: kl(s, t).clamp(max=0.05).mean()), "loss-without-gradient"),
    Case("mixture", over_tokens(lambda s, t: (kl(s, t) + reverse(s, t)) / 4), "loss-another-divergence",
         call=(("expects", "jensen_shannon"),)),
    Case("temperature after the softmax", after_the_softmax, "loss-temperature-misplaced"),
    Case("statistics of the batch", confidence_of_the_batch, "loss-mixes-positions"),
    Case("weights from the row's end", masks_by_row_end, "loss-depends-on-padding"),
    Case("-100 taken for token 0", ignored_labels_become_token_0, "loss-counts-padding"),
)
# fmt: on

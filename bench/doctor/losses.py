"""Loss functions as people write them in a plain loop: some right, some with one mistake.

Shape letters: B sequences, L positions, V vocabulary, N scored positions, K kept tokens.
Every function takes unshifted logits (B, L, V) of both sides and unshifted labels (B, L), unless it says otherwise.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

IGNORED = -100


def _kept(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    keep = labels[:, 1:] != IGNORED
    return student_logits[:, :-1][keep], teacher_logits[:, :-1][keep], labels[:, 1:][keep]


# ---------------------------------------------------------------- right


def textbook(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float = 2.0) -> Tensor:
    """Hinton's mixture: half forward KL with T², half cross-entropy, per scored token."""
    s, t, y = _kept(student_logits, teacher_logits, labels)
    soft = functional.kl_div(
        functional.log_softmax(s / temperature, -1), functional.softmax(t / temperature, -1), reduction="batchmean"
    )
    return 0.5 * soft * temperature**2 + 0.5 * functional.cross_entropy(s, y)


def soft_cross_entropy(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """torchtune's form: −Σ p log q, a mean over the scored tokens."""
    s, t, _ = _kept(student_logits, teacher_logits, labels)
    return -(t.softmax(-1) * s.log_softmax(-1)).sum(-1).mean()


def minillm_reverse(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """KL(student ‖ teacher) by hand, masked sum over the number of scored tokens."""
    q, p = student_logits[:, :-1].log_softmax(-1), teacher_logits[:, :-1].log_softmax(-1)
    keep = (labels[:, 1:] != IGNORED).float()
    return ((q.exp() * (q - p)).sum(-1) * keep).sum() / keep.sum().clamp(min=1)


def skewed(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """DistiLLM's skewed forward KL: the teacher against 0.1 · teacher + 0.9 · student."""
    s, t, _ = _kept(student_logits, teacher_logits, labels)
    p, q = t.softmax(-1), s.softmax(-1)
    return (p * (p.clamp(min=1e-12).log() - (0.1 * p + 0.9 * q).clamp(min=1e-12).log())).sum(-1).mean()


def top_k_with_tail(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """The teacher's eight likeliest tokens, and one bucket for all the others."""
    s, t, _ = _kept(student_logits, teacher_logits, labels)
    q, p = s.log_softmax(-1), t.log_softmax(-1)
    p_NK, at_NK = p.topk(8, -1)
    q_NK = q.gather(-1, at_NK)
    rest_p = torch.log1p(-p_NK.exp().sum(-1).clamp(max=1 - 1e-6))
    rest_q = torch.log1p(-q_NK.exp().sum(-1).clamp(max=1 - 1e-6))
    return ((p_NK.exp() * (p_NK - q_NK)).sum(-1) + rest_p.exp() * (rest_p - rest_q)).mean()


def total_variation(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """Half the L1 distance of the two distributions, per scored token."""
    s, t, _ = _kept(student_logits, teacher_logits, labels)
    return 0.5 * (s.softmax(-1) - t.softmax(-1)).abs().sum(-1).mean()


# ---------------------------------------------------------------- one mistake each


def probabilities_as_input(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """kl_div wants log-probabilities first; these are probabilities. 1.7 for two equal distributions."""
    s, t, _ = _kept(student_logits, teacher_logits, labels)
    return functional.kl_div(s.softmax(-1), t.softmax(-1), reduction="batchmean")


def raw_logits_as_target(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """log_target=True, and the teacher's logits were never normalised."""
    s, t, _ = _kept(student_logits, teacher_logits, labels)
    return functional.kl_div(s.log_softmax(-1), t, reduction="batchmean", log_target=True)


def softmax_over_positions(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """dim=1, as in a classifier; here it is the sequence."""
    keep = (labels[:, 1:] != IGNORED).unsqueeze(-1)
    q, p = functional.log_softmax(student_logits[:, :-1], dim=1), functional.softmax(teacher_logits[:, :-1], dim=1)
    return (functional.kl_div(q, p, reduction="none") * keep).sum() / keep.sum()


def mean_of_every_element(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """reduction="mean" divides by the vocabulary too."""
    s, t, _ = _kept(student_logits, teacher_logits, labels)
    return functional.kl_div(s.log_softmax(-1), t.softmax(-1), reduction="mean")


def batchmean_of_sequences(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """batchmean on (B, L, V) divides by B alone."""
    keep = (labels[:, 1:] != IGNORED).unsqueeze(-1)
    q, p = student_logits[:, :-1].log_softmax(-1), teacher_logits[:, :-1].log_softmax(-1)
    return functional.kl_div(q * keep, p.masked_fill(~keep, 0.0).exp() * keep, reduction="batchmean")


def no_mask_at_all(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 2.0) -> Tensor:
    """Every position counts, padding with it."""
    q = functional.log_softmax(student_logits / temperature, -1).flatten(0, 1)
    p = functional.softmax(teacher_logits / temperature, -1).flatten(0, 1)
    return functional.kl_div(q, p, reduction="batchmean") * temperature**2


def attention_mask_for_the_loss(student_logits: Tensor, teacher_logits: Tensor, attention_mask: Tensor) -> Tensor:
    """The attention mask tells padding from text, and not the prompt from the answer."""
    q, p = student_logits.log_softmax(-1), teacher_logits.log_softmax(-1)
    kl = (p.exp() * (p - q)).sum(-1)
    return (kl * attention_mask).sum() / attention_mask.sum()


def mask_of_the_labels_in_place(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """labels != -100 on unshifted logits: the first answer token is never taught, the end token's logits are."""
    keep = labels != IGNORED
    q, p = student_logits[keep].log_softmax(-1), teacher_logits[keep].softmax(-1)
    soft = functional.kl_div(q, p, reduction="batchmean")
    hard = functional.cross_entropy(student_logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
    return soft + hard


def divided_by_all_positions(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """A masked loss and then .mean() over all positions."""
    keep = (labels[:, 1:] != IGNORED).float()
    q, p = student_logits[:, :-1].log_softmax(-1), teacher_logits[:, :-1].log_softmax(-1)
    return ((p.exp() * (p - q)).sum(-1) * keep).mean()


def renormalised_top_k(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """A cache of the teacher's top 8, renormalised to one; the student is normalised over all tokens."""
    s, t, _ = _kept(student_logits, teacher_logits, labels)
    t_NK, at_NK = t.topk(8, -1)
    p_NK = t_NK.softmax(-1)
    return (p_NK * (p_NK.log() - s.log_softmax(-1).gather(-1, at_NK))).sum(-1).mean()


def tail_thrown_away(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """A teacher server's top-5 log-probabilities; student and teacher are renormalised over these five."""
    s, t, _ = _kept(student_logits, teacher_logits, labels)
    t_NK, at_NK = t.topk(5, -1)
    p, q = t_NK.log_softmax(-1), s.gather(-1, at_NK).log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean()


def probability_times_difference(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """Sound on finite logits; with a masked token it is 0 · −∞."""
    s, t, _ = _kept(student_logits, teacher_logits, labels)
    p, q = t.log_softmax(-1), s.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean()


def server_one_late(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """llama-cpp-python's echo: the teacher's row of a token is the one that comes after it."""
    keep = labels[:, 1:] != IGNORED
    q, p = student_logits[:, :-1][keep].log_softmax(-1), teacher_logits[:, 1:][keep].log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean()


def forward_kl_of_swapped_arguments(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """functional.kl_div(teacher, student) is KL(student ‖ teacher)."""
    s, t, _ = _kept(student_logits, teacher_logits, labels)
    return functional.kl_div(t.log_softmax(-1), s.log_softmax(-1), reduction="batchmean", log_target=True)


def by_the_likeliest_token(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """Counts where the two argmaxes differ, and asks for its gradient."""
    s, t, _ = _kept(student_logits, teacher_logits, labels)
    return (s.argmax(-1) != t.argmax(-1)).float().mean().requires_grad_()


def weight_on_the_wrong_part(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """alpha = 1 was meant for the teacher's part."""
    alpha = 1.0
    s, t, y = _kept(student_logits, teacher_logits, labels)
    soft = functional.kl_div(s.log_softmax(-1), t.softmax(-1), reduction="batchmean")
    return alpha * functional.cross_entropy(s, y) + (1 - alpha) * soft


def temperature_after_the_softmax(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float = 2.0
) -> Tensor:
    """log_softmax(s) / T is no log-probability."""
    s, t, _ = _kept(student_logits, teacher_logits, labels)
    return functional.kl_div(s.log_softmax(-1) / temperature, t.softmax(-1) / temperature, reduction="batchmean")


def temperature_for_the_teacher_alone(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float = 2.0
) -> Tensor:
    """The student's logits are not divided."""
    s, t, _ = _kept(student_logits, teacher_logits, labels)
    return functional.kl_div(s.log_softmax(-1), (t / temperature).softmax(-1), reduction="batchmean") * temperature**2


def temperature_once(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float = 2.0
) -> Tensor:
    """Multiplied by T where T² is meant."""
    s, t, _ = _kept(student_logits, teacher_logits, labels)
    q, p = (s / temperature).log_softmax(-1), (t / temperature).softmax(-1)
    return functional.kl_div(q, p, reduction="batchmean") * temperature


def temperature_in_the_hard_part(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float = 2.0
) -> Tensor:
    """The logits are divided once at the top, and the labels' cross-entropy is taken of them too."""
    s, t, y = _kept(student_logits / temperature, teacher_logits / temperature, labels)
    soft = functional.kl_div(s.log_softmax(-1), t.softmax(-1), reduction="batchmean")
    return 0.5 * soft * temperature**2 + 0.5 * functional.cross_entropy(s, y)


def logits_against_unshifted_labels(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """cross_entropy(logits, labels) without the causal shift, beside a sound term for the teacher."""
    s, t, _ = _kept(student_logits, teacher_logits, labels)
    hard = functional.cross_entropy(student_logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
    return functional.kl_div(s.log_softmax(-1), t.softmax(-1), reduction="batchmean") + hard


def shifted_once_more(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """The labels come shifted from the collator, and are shifted again."""
    moved = functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
    s, t, y = _kept(student_logits, teacher_logits, moved)
    return functional.kl_div(s.log_softmax(-1), t.softmax(-1), reduction="batchmean") + functional.cross_entropy(s, y)


def log_of_a_softmax(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """log(softmax(x)) underflows where log_softmax does not."""
    s, t, _ = _kept(student_logits, teacher_logits, labels)
    p, q = t.softmax(-1), s.softmax(-1)
    return (p * (p.log() - q.log())).sum(-1).mean()


def divided_in_place(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float = 2.0
) -> Tensor:
    """teacher_logits /= T saves memory, and changes what every other term reads."""
    teacher_logits /= temperature
    s, t, _ = _kept(student_logits / temperature, teacher_logits, labels)
    return functional.kl_div(s.log_softmax(-1), t.softmax(-1), reduction="batchmean") * temperature**2


def padded_with_zero_logits(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """Liger: a narrower student is padded with logits of 0, which are ordinary tokens."""
    missing = teacher_logits.shape[-1] - student_logits.shape[-1]
    s, t, _ = _kept(functional.pad(student_logits, (0, max(missing, 0))), teacher_logits, labels)
    return functional.kl_div(s.log_softmax(-1), t.softmax(-1), reduction="batchmean")


def tail_from_the_other_model(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """ms-swift: the narrower side's tail is filled with the other model's logits."""
    s, t = student_logits, teacher_logits
    if t.shape[-1] > s.shape[-1]:
        s = torch.cat([s, t[..., s.shape[-1] :]], dim=-1)
    elif s.shape[-1] > t.shape[-1]:
        t = torch.cat([t, s[..., t.shape[-1] :]], dim=-1)
    return minillm_reverse(s, t, labels)


def sorted_probabilities(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """ULD: both sides' probabilities are sorted, so that no token has a name any more."""
    s, t, _ = _kept(student_logits, teacher_logits, labels)
    p, q = t.softmax(-1).sort(-1, descending=True).values, s.softmax(-1).sort(-1, descending=True).values
    return (p - q).abs().sum(-1).mean()


def in_half_precision(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """The log-softmax is taken in the model's dtype, and subtracted there."""
    s, t, _ = _kept(student_logits.bfloat16(), teacher_logits.bfloat16(), labels)
    p, q = t.log_softmax(-1), s.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean().float()


def detached_with_the_teacher(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """One detach too many: the student's probabilities are a constant in its own reverse KL."""
    s, t, _ = _kept(student_logits, teacher_logits, labels)
    q, p = s.log_softmax(-1), t.log_softmax(-1)
    return (q.detach().exp() * (q - p)).sum(-1).mean()


class FakeModel(nn.Module):
    """A model whose logits are given, for trainers that want one: `compute_loss` of a trainer becomes a function."""

    def __init__(self, logits: Tensor, config: Any = None) -> None:
        super().__init__()
        self.logits = logits
        self.config = config

    def forward(self, **inputs: object) -> Any:
        """The logits that were given."""
        from transformers.modeling_outputs import CausalLMOutput

        return CausalLMOutput(logits=self.logits)

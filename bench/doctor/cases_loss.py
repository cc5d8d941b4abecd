"""Loss functions of plain loops, each under the check of losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from bench.doctor import losses
from bench.doctor.case import Case, Cases, Place
from distillab.doctor import audit_loss
from distillab.records import CheckResult

CASES = Cases()

# function, what names its mistake rightly, what is true of it too
_FAULTS: tuple[tuple[Callable[..., Tensor], tuple[str, ...], tuple[str, ...]], ...] = (
    (losses.probabilities_as_input, ("loss-mixes-logs-and-probabilities",), ("loss-not-minimal-at-teacher",)),
    (losses.raw_logits_as_target, ("loss-mixes-logs-and-probabilities",), ("loss-not-minimal-at-teacher",)),
    (losses.softmax_over_positions, ("loss-softmax-over-wrong-dimension",), ()),
    (losses.mean_of_every_element, ("loss-divided-by-vocabulary",), ()),
    (losses.batchmean_of_sequences, ("loss-grows-with-length",), ()),
    (losses.no_mask_at_all, ("loss-counts-padding",), ("loss-depends-on-padding",)),
    (losses.attention_mask_for_the_loss, ("loss-counts-prompt",), ()),
    (losses.mask_of_the_labels_in_place, ("loss-mask-not-shifted",), ()),
    (losses.divided_by_all_positions, ("loss-divides-by-unscored-positions",), ("loss-depends-on-padding",)),
    (losses.renormalised_top_k, ("loss-drops-teacher-tail",), ("loss-not-minimal-at-teacher",)),
    (losses.tail_thrown_away, ("loss-drops-teacher-tail",), ()),
    (losses.probability_times_difference, ("loss-nan-at-minus-infinity",), ()),
    (losses.server_one_late, ("loss-reads-teacher-elsewhere",), ()),
    (losses.forward_kl_of_swapped_arguments, ("loss-another-divergence",), ()),
    (losses.by_the_likeliest_token, ("loss-without-gradient",), ()),
    (losses.weight_on_the_wrong_part, ("loss-ignores-teacher",), ()),
    (losses.temperature_after_the_softmax, ("loss-temperature-misplaced",), ("loss-not-minimal-at-teacher",)),
    (losses.temperature_for_the_teacher_alone, ("loss-temperature-on-one-side",), ("loss-not-minimal-at-teacher",)),
    (losses.temperature_once, ("loss-temperature-unusual-factor",), ()),
    (losses.temperature_in_the_hard_part, ("loss-temperature-in-hard-part",), ()),
    (losses.logits_against_unshifted_labels, ("loss-labels-not-shifted",), ()),
    (losses.shifted_once_more, ("loss-labels-shifted-twice",), ()),
    (losses.log_of_a_softmax, ("loss-not-finite-at-large-gaps", "loss-nan-at-minus-infinity"), ()),
    (losses.divided_in_place, ("loss-changes-its-inputs",), ()),
    (losses.padded_with_zero_logits, ("loss-accepts-other-width",), ()),
    (losses.tail_from_the_other_model, ("loss-accepts-other-width",), ()),
    (losses.sorted_probabilities, ("loss-blind-to-token-identity",), ()),
    (losses.in_half_precision, ("loss-imprecise-in-bfloat16",), ()),
    (losses.detached_with_the_teacher, ("loss-without-gradient", "loss-not-minimal-at-teacher"), ()),
)
_GOOD: tuple[Callable[..., Tensor], ...] = (
    losses.textbook,
    losses.soft_cross_entropy,
    losses.minillm_reverse,
    losses.skewed,
    losses.top_k_with_tail,
    losses.total_variation,
)


def _make(function: Callable[..., Tensor]) -> Callable[[Place], Sequence[CheckResult]]:
    return lambda place: (audit_loss(function, given="sequences"),)


def _name(function: Callable[..., Tensor]) -> str:
    return function.__name__.replace("_", "-")


for _function, _expected, _beside in _FAULTS:
    CASES.append(
        Case(_name(_function), "torch", "loss", frozenset(_expected), _make(_function), "nothing", frozenset(_beside))
    )
for _function in _GOOD:
    CASES.append(Case(_name(_function), "torch", "loss", frozenset(), _make(_function), "nothing"))


@CASES.fault("torch", "loss", "loss-nan-when-nothing-is-scored", needs="nothing")
def mean_over_no_tokens(place: Place) -> Sequence[CheckResult]:
    """A plain .mean() over the scored tokens: NaN where a batch has none."""
    return (audit_loss(losses.soft_cross_entropy, given="sequences"),)


@CASES.fault("torch", "loss", "loss-another-divergence", needs="nothing")
def reverse_where_forward_is_said(place: Place) -> Sequence[CheckResult]:
    """The paper says forward KL; the code is the reverse."""
    return (audit_loss(losses.minillm_reverse, given="sequences", expects="forward_kl"),)

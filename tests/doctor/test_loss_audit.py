"""The audit of loss functions: planted mistakes are found under their ids, and sound functions have no error."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import pytest
import torch
from tests.doctor import loss_functions as losses
from torch.nn import functional as nnf

from distillab.doctor import audit_loss
from distillab.doctor.loss.call import (
    TRIED_TEMPERATURE,
    WATCHED,
    described_call,
    invented,
    padded_left,
    renamed,
    with_columns,
    with_fewer_scored,
    with_unused_tokens,
)
from distillab.doctor.loss.formulas import MISTAKES, PLAIN, WITH_SHARES, lowest, recognised
from distillab.doctor.loss.reduction import DIVISORS, measured_reductions
from distillab.doctor.loss.subject import measured_hard_part
from distillab.errors import ConfigError
from distillab.records.findings import CheckResult, Finding


@functools.cache
def audited(case: losses.Case) -> CheckResult:
    return audit_loss(case.function, **dict(case.call))


def described(result: CheckResult) -> str:
    (note,) = (finding for finding in result.findings if finding.id == "loss-description")
    return "\n".join(note.evidence)


def finding(result: CheckResult, name: str) -> Finding:
    (one,) = (finding for finding in result.findings if finding.id == name)
    return one


def good(name: str) -> losses.Case:
    return next(case for case in losses.GOOD if case.name == name)


def fault(name: str) -> losses.Case:
    return next(case for case in losses.FAULTS if case.name == name)


@pytest.mark.parametrize("case", losses.GOOD, ids=lambda case: case.name)
def test_sound_functions_have_no_error_and_are_described(case: losses.Case) -> None:
    result = audited(case)
    assert [one for one in result.findings if one.severity == "error"] == []
    text = described(result)
    assert [words for words in case.says if words not in text] == []


@pytest.mark.parametrize("case", losses.FAULTS, ids=lambda case: case.name)
def test_planted_mistakes_are_found_under_their_id(case: losses.Case) -> None:
    result = audited(case)
    ids = [one.id for one in result.findings]
    assert case.found in ids
    assert len(ids) == len(set(ids))


# What is an error whoever wrote it, whatever was meant.
ERRORS = {
    "loss-divided-by-vocabulary",
    "loss-divides-by-unscored-positions",
    "loss-labels-not-shifted",
    "loss-labels-shifted-twice",
    "loss-mask-not-shifted",
    "loss-reads-teacher-elsewhere",
    "loss-softmax-over-wrong-dimension",
    "loss-mixes-logs-and-probabilities",
    "loss-not-a-number",
    "loss-temperature-on-one-side",
    "loss-temperature-without-effect",
    "loss-temperature-misplaced",
    "loss-without-gradient",
    "loss-ignores-teacher",
    "loss-not-minimal-at-teacher",
    "loss-depends-on-padding",
}


@pytest.mark.parametrize("case", [c for c in losses.FAULTS if c.found in ERRORS], ids=lambda case: case.name)
def test_what_has_no_other_reading_is_an_error(case: losses.Case) -> None:
    assert finding(audited(case), case.found).severity == "error"


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("case", [losses.GOOD[2], losses.GOOD[4]], ids=lambda case: case.name)
def test_the_verdict_is_not_that_of_one_draw(case: losses.Case, seed: int) -> None:
    result = audit_loss(case.function, seed=seed, vocabulary=64, **dict(case.call))
    assert [one for one in result.findings if one.severity == "error"] == []
    assert "64 tokens" in result.scope


def test_the_recommended_form_has_no_finding_but_its_description() -> None:
    assert [one.id for one in audited(good("careful")).findings] == ["loss-description"]


def test_figures_are_the_functions_own() -> None:
    text = described(audited(good("Hinton")))
    assert "forward KL, KL(teacher ‖ student), T = 2, times T² and 0.7, mean over scored tokens" in text
    assert "labels: a cross-entropy, weight 0.3, mean over scored tokens" in text
    evidence = finding(audited(fault("mean over everything")), "loss-divides-by-unscored-positions").evidence
    # 12 of 17 shifted columns: the gradient is 12/17 with five more
    assert "multiplied by 0.706 with five more columns of padding" in evidence[2]


def test_a_one_sided_temperature_is_measured() -> None:
    evidence = finding(audited(fault("temperature on the teacher only")), "loss-temperature-on-one-side").evidence
    assert "0.333 times the teacher's" in evidence[0]
    evidence = finding(audited(fault("temperature on the student only")), "loss-temperature-on-one-side").evidence
    assert "2 times the teacher's" in evidence[0]


def test_unsaid_and_said_shift() -> None:
    """A function that does not shift: a question where nothing was said, an error where it must."""
    unsaid, said = audit_loss(losses.trl_jsd), audit_loss(losses.trl_jsd, given="sequences")
    assert finding(unsaid, "loss-mask-not-shifted").severity == "warning"
    assert finding(said, "loss-mask-not-shifted").severity == "error"
    right = audit_loss(losses.trl_jsd, given="shifted")
    assert "loss-mask-not-shifted" not in {one.id for one in right.findings}


def test_how_far_a_free_student_ends_decides_between_regulariser_and_mistake() -> None:
    mild = finding(audited(good("softened teacher")), "loss-not-minimal-at-teacher")
    gross = finding(audited(fault("entropy with the wrong sign")), "loss-not-minimal-at-teacher")
    assert (mild.severity, gross.severity) == ("warning", "error")
    assert "nats per token" in mild.evidence[-1]


def test_a_gradient_to_the_teacher_is_said() -> None:
    assert "no gradient flows" in described(audited(good("careful")))
    assert "a gradient flows into the teacher's" in described(audited(good("forward KL, mean over tokens")))


# ---------------------------------------------------------------- how it is called


def test_positions_instead_of_names() -> None:
    def renamed_arguments(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, beta: float = 0.5) -> torch.Tensor:
        return losses.token_mean_kl(b, a, c)

    with pytest.raises(ConfigError, match="do not show what it takes"):
        audit_loss(renamed_arguments)
    result = audit_loss(renamed_arguments, takes=("teacher_logits", "student_logits", "labels"), expects="forward_kl")
    assert "forward KL" in described(result)
    # said the wrong way round it is the other direction
    wrong = audit_loss(renamed_arguments, takes=("student_logits", "teacher_logits", "labels"), expects="forward_kl")
    assert finding(wrong, "loss-another-divergence").severity == "error"


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="by position, each once"):
        audit_loss(losses.careful, takes=("student_logits", "labels"))
    with pytest.raises(ConfigError, match="no such divergence"):
        audit_loss(losses.careful, expects="forward_kk")
    with pytest.raises(ConfigError, match="at least 20"):
        audit_loss(losses.careful, vocabulary=8)
    with pytest.raises(ConfigError, match="returns one tensor"):
        audit_loss(lambda student_logits, teacher_logits: {"loss": student_logits.sum()})


def test_what_the_function_raises_on_an_ordinary_batch_is_raised() -> None:
    def broken(student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
        raise KeyError("no such thing")

    with pytest.raises(KeyError, match="no such thing"):
        audit_loss(broken)


def test_a_number_instead_of_a_tensor_has_no_gradient() -> None:
    result = audit_loss(lambda student_logits, teacher_logits: float(losses.kl(student_logits, teacher_logits).sum()))
    assert [one.id for one in result.findings] == ["loss-without-gradient"]


def test_the_temperature_of_an_unusual_name() -> None:
    def smooth(student_logits, teacher_logits, labels, smoothness=1.0):
        return losses.temperature_on_student_only(student_logits, teacher_logits, labels, smoothness)

    assert "loss-temperature-on-one-side" not in {one.id for one in audit_loss(smooth).findings}
    assert "loss-temperature-on-one-side" in {one.id for one in audit_loss(smooth, temperature="smoothness").findings}


def test_the_users_random_numbers_and_tensors_are_left_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    audit_loss(losses.token_mean_kl)
    assert torch.equal(torch.get_rng_state(), before)


# ---------------------------------------------------------------- the measurements


def test_the_world_is_what_it_says() -> None:
    batch = invented(23, padded=True, seed=0)
    assert int(batch.scored.sum()) == 25
    for row, position in batch.scored.nonzero().tolist():
        assert batch.labels[row, position + 1] != -100
    assert all(bool(marks[0, WATCHED]) for marks in (batch.at_labels(0), batch.at_labels(1), batch.at_labels(2)))
    fewer = with_fewer_scored(batch)
    assert int(fewer.scored.sum()) == 23 and all(bool(fewer.at_labels(ahead)[0, WATCHED]) for ahead in (0, 1, 2))
    assert bool((batch.attention == 0).any()) and not bool((invented(23, padded=False, seed=0).attention == 0).any())


def test_variations_hold_the_same_rows() -> None:
    batch = invented(23, padded=True, seed=0)
    # it reads the ids of the labels too
    reference = losses.hinton(batch.student, batch.teacher, batch.labels)
    for varied in (
        padded_left(batch),
        renamed(batch, seed=1),
        with_columns(batch, 3, prompt=True, left=True),
        with_columns(batch, 3, prompt=False, left=False),
        with_unused_tokens(batch, 9),
    ):
        again = losses.hinton(varied.student, varied.teacher, varied.labels)
        assert again == pytest.approx(float(reference))
        watched = WATCHED + varied.start
        assert varied.attention[0, watched] == 1 and varied.scored[0, watched]
    left = padded_left(batch)
    assert torch.equal(left.student[0, WATCHED + left.start], batch.student[0, WATCHED])


def test_the_weight_of_the_labels_is_read() -> None:
    batch = invented(23, padded=True, seed=0)
    caller = described_call(losses.hinton, takes=None, temperature=None, given="sequences")
    hard = measured_hard_part(caller, batch, caller(batch))
    assert hard.offset == -1 and hard.pure
    assert hard.weight[batch.scored].tolist() == pytest.approx([0.3 / 25] * 25, rel=1e-4)
    assert not hard.weight[~batch.scored].any()
    own = 0.3 * losses.hard(batch.student[:, :-1], batch.labels[:, 1:])
    assert hard.value(batch.student) == pytest.approx(float(own), rel=1e-4)


def test_smoothing_and_temperature_of_the_labels_are_told_apart() -> None:
    assert "label smoothing 0.1" in described(audited(good("label smoothing")))
    evidence = finding(audited(fault("labels tempered too")), "loss-temperature-in-hard-part").evidence
    assert "power -1.00" in evidence[0] and "temperature = 2: 2" in evidence[1]
    batch = invented(23, padded=True, seed=0)
    caller = described_call(losses.tempered_labels, takes=None, temperature=None, given="sequences")
    part = replace(measured_hard_part(caller, batch, caller(batch)), temperature=TRIED_TEMPERATURE)
    own = 0.5 * losses.hard(batch.student[:, :-1] / TRIED_TEMPERATURE, batch.labels[:, 1:])
    assert part.value(batch.student) == pytest.approx(float(own), rel=1e-4)


@pytest.mark.parametrize("formula", [*PLAIN, *MISTAKES, *WITH_SHARES[::7]], ids=lambda formula: formula.words)
@pytest.mark.parametrize("temperature", [1.0, 2.6])
def test_each_formula_is_recognised_by_its_own_gradient(formula, temperature) -> None:
    if not formula.tempered or formula in WITH_SHARES or formula.family == "of_likeliest":
        temperature = 1.0
    generator = torch.Generator().manual_seed(2)
    student, teacher = (torch.randn(12, 23, generator=generator) * scale for scale in (1.5, 2.0))
    leaf = student.requires_grad_()
    (gradient,) = torch.autograd.grad((0.3 * formula.of(leaf / temperature, teacher / temperature)).sum(), leaf)
    fit = recognised(leaf.detach(), teacher, gradient, (1.0, 2.0))
    assert fit.holds and fit.formula.words == formula.words
    assert fit.temperature == pytest.approx(temperature, rel=1e-2)
    assert fit.weights.tolist() == pytest.approx([0.3] * 12, rel=2e-2)


@pytest.mark.parametrize("divisor", DIVISORS[:12], ids=lambda divisor: divisor.words)
@pytest.mark.parametrize("with_vocabulary", [False, True])
def test_each_divisor_is_recognised(divisor, with_vocabulary) -> None:
    def divided(student_logits, teacher_logits, labels, attention_mask):
        rows, length, vocabulary = student_logits.shape
        s, t, _, mask = losses.shifted(student_logits, teacher_logits, labels)
        values, own, tokens = losses.kl(s, t) * mask, mask.sum(1, keepdim=True), attention_mask.sum(1, keepdim=True)
        by = [
            mask.sum(), torch.tensor(1), rows * own, own, torch.tensor(rows), torch.tensor(rows * length),
            torch.tensor(rows * (length - 1)), torch.tensor(length), torch.tensor(length - 1), attention_mask.sum(),
            attention_mask[:, 1:].sum(), rows * tokens,
        ]  # fmt: skip
        return (values / by[DIVISORS.index(divisor)]).sum() / (vocabulary if with_vocabulary else 1)

    batch = invented(23, padded=True, seed=0)
    caller = described_call(divided, takes=None, temperature=None, given="sequences")
    soft, hard = measured_reductions(caller, batch, measured_hard_part(caller, batch, caller(batch)), padded=True)
    assert hard is None and soft is not None
    assert soft.divisor == DIVISORS[DIVISORS.index(divisor) + 12 * with_vocabulary]


def test_both_parts_have_their_own_divisor() -> None:
    """The labels' mean beside a teacher's part that is summed over each row."""

    def both(student_logits, teacher_logits, labels):
        s, _, targets, _ = losses.shifted(student_logits, teacher_logits, labels)
        return losses.hard(s, targets) + losses.batchmean(student_logits, teacher_logits, labels)

    batch = invented(23, padded=True, seed=0)
    caller = described_call(both, takes=None, temperature=None, given="sequences")
    soft, hard = measured_reductions(caller, batch, measured_hard_part(caller, batch, caller(batch)), padded=True)
    assert soft is not None and soft.divisor is not None and soft.divisor.kind == "batch"
    assert hard is not None and hard.divisor is not None and hard.divisor.kind == "tokens"


def test_lowest_finds_a_narrow_valley() -> None:
    assert lowest(lambda x: abs(x - 0.734), -3.0, 3.0, steps=24) == pytest.approx(0.734, abs=1e-3)


def test_torchs_own_values_are_the_references() -> None:
    """The formulas that a function is held against, against torch's kl_div."""
    generator = torch.Generator().manual_seed(4)
    s, t = torch.randn(6, 23, generator=generator), torch.randn(6, 23, generator=generator)
    forward = nnf.kl_div(s.log_softmax(-1), t.softmax(-1), reduction="none").sum(-1)
    backward = nnf.kl_div(t.log_softmax(-1), s.softmax(-1), reduction="none").sum(-1)
    by_family = {formula.family: formula for formula in PLAIN}
    assert by_family["forward_kl"].of(s, t).tolist() == pytest.approx(forward.tolist(), rel=1e-4)
    assert by_family["reverse_kl"].of(s, t).tolist() == pytest.approx(backward.tolist(), rel=1e-4)
    assert math.isclose(float(by_family["sorted_probabilities"].of(s, s.flip(-1)).sum()), 0.0, abs_tol=1e-6)


# ---------------------------------------------------------------- what must not be said


def ids(result: CheckResult) -> set[str]:
    return {one.id for one in result.findings}


def test_padding_is_no_error_of_a_function_without_a_mask() -> None:
    result = audit_loss(losses.mean_reduction)
    assert finding(result, "loss-counts-padding").severity == "warning"
    # said to be called without padding, or on the scored rows alone, it is none at all
    assert "loss-counts-padding" not in ids(audit_loss(losses.flat_batchmean, padded=False))
    assert "loss-counts-padding" not in ids(audited(good("batchmean of flat rows")))


def test_a_loss_that_sees_neither_shift_is_no_wrong_softmax() -> None:
    """Logits from which both means are taken away do not see a number that is added along either dimension."""

    def doubly_centred(student_logits, teacher_logits, labels):
        s, t = (x - x.mean(-1, keepdim=True) for x in (student_logits, teacher_logits))
        s, t = (x - x.mean((0, 1), keepdim=True) for x in (s, t))
        s, t, _, mask = losses.shifted(s, t, labels)
        return losses.mean((s - t).square().sum(-1), mask)

    assert "loss-softmax-over-wrong-dimension" not in ids(audit_loss(doubly_centred))


def test_a_cell_for_the_rest_is_no_dropped_tail() -> None:
    assert "loss-drops-teacher-tail" not in ids(audited(good("ours: top k with a tail cell")))
    assert "loss-drops-teacher-tail" not in ids(audited(good("top 5 with a cell for the rest")))


def test_a_dropped_tail_is_said_once() -> None:
    assert "loss-not-minimal-at-teacher" not in ids(audited(fault("top k without the rest")))


def test_an_infinite_reverse_kl_is_no_finding() -> None:
    """A teacher that excludes what the student says is infinitely far in that direction, and the value says so."""
    assert "loss-nan-at-minus-infinity" not in ids(audited(good("ours: reverse KL")))


def test_sides_of_unlike_shapes_are_refused_by_who_refuses_them() -> None:
    assert "loss-accepts-other-width" not in ids(audited(good("careful")))
    evidence = finding(audited(fault("wider teacher cut after its softmax")), "loss-accepts-other-width").evidence
    assert "23 tokens of the student, 28 of the teacher" in evidence[0]


def test_a_teacher_at_another_position_is_not_called_a_mask() -> None:
    """Where its logits count says nothing of the mask when they are another position's."""
    found = ids(audited(fault("teacher one position ahead")))
    assert "loss-mask-not-shifted" not in found and "loss-counts-prompt" not in found

"""The sentence that a study ends in."""

from __future__ import annotations

import pytest

from distillab.records import AccessLevel, ArmResult, Interval
from distillab.report.table import interval_tone
from distillab.study.comparisons import with_adjusted
from distillab.study.verdict import headline, verdict
from tests.report.fixture import compared


def _arm(name: str, access: AccessLevel, mean: float, *, across: bool = False, shows: str | None = None) -> ArmResult:
    return ArmResult(
        name=name,
        method=name,
        access=access,
        teacher="t",
        across_tokenizers=across,
        shown_failure=shows,
        seeds=(),
        evaluations=(),
        curves=(),
        costs=(),
        comparisons=compared(Interval(mean=mean, low=mean - 0.01, high=mean + 0.01), nearer=not across),
    )


def _with(arm: ArmResult, difference: Interval) -> ArmResult:
    return arm.model_copy(update={"comparisons": compared(difference, nearer=False)})


def test_levels_of_access_are_told_apart_by_the_teachers_tokens() -> None:
    text = verdict(
        [
            _arm("spans", "logits", -0.04, across=True),
            _arm("logits", "logits", -0.09),
            _arm("answers", "text", 0.005, across=True),
            _arm("broken", "logits", 3.0, across=True, shows="an error"),
        ]
    )
    same, across, failures = text.split(". ")
    assert same == (
        "Compared with SFT on the same rows (claims at 5 % for all 3 arms together, Holm): "
        "logits is better by 0.090 nats per token (95 % interval -0.100 to -0.080)"
    )
    assert across == (
        "Across tokenizers, from a teacher with other tokens: spans is better by 0.040 nats per token (95 % interval "
        "-0.050 to -0.030); no significant difference from SFT: answers"
    )
    assert failures == "Shown as failures, not as results: broken."


def test_the_headline_of_twelve_arms_is_short_and_says_on_what_it_was_measured() -> None:
    arms = [_arm(f"method_number_{i}", "logits", -0.1 + 0.02 * i) for i in range(12)]
    measured = [
        _with(arm, arm.against_sft.model_copy(update={"rows": 200, "seeds": 3}))
        for arm in arms
        if arm.against_sft is not None
    ]
    text = verdict(measured)
    assert text.startswith(
        "Compared with SFT on the same rows (n = 200 rows × 3 seeds; claims at 5 % for all 12 arms together, Holm): "
        "method_number_0 is better by 0.100 nats per token (95 % interval -0.110 to -0.090), method_number_1, "
        "method_number_2 and 2 more by less; method_number_11 is worse by 0.120"
    )
    assert text.endswith("no significant difference from SFT: method_number_5.")
    assert text.count("interval") == 2 and len(text) < 450


def test_too_few_rows_get_no_interval() -> None:
    difference = Interval(mean=-0.4, low=None, high=None, p=1.0, rows=2, seeds=1)
    text = verdict([_with(_arm("logits", "logits", 0.0), difference)])
    assert text == (
        "Compared with SFT on the same rows (n = 2 rows × 1 seed): no significant difference from SFT: logits (too few "
        "rows for an interval)."
    )
    assert headline([_with(_arm("logits", "logits", 0.0), difference)]).endswith(
        "(logits) show nothing on so few rows."
    )


@pytest.mark.parametrize("across", [False, True])
def test_one_kind_of_teacher_alone(across: bool) -> None:
    text = verdict([_arm("logits", "logits", 0.05, across=across)])
    assert text.startswith("Compared with SFT on the same rows") and text.endswith("(95 % interval +0.040 to +0.060).")
    assert ("tokenizers" in text) == across


def test_what_one_comparison_would_claim_is_open_where_several_do_not() -> None:
    alone = _arm("logits", "logits", -0.05)
    assert alone.against_sft is not None
    weak = alone.against_sft.model_copy(update={"p": 0.03, "adjusted_p": 0.12, "comparisons": 4})
    text = verdict([_with(alone, weak)])
    assert text == "Compared with SFT on the same rows: no significant difference from SFT: logits."
    assert (interval_tone(weak), interval_tone(alone.against_sft)) == ("even", "good")


def test_a_shown_failure_is_no_comparison_to_adjust_for() -> None:
    arms = [
        _arm("logits", "logits", -0.09),
        _arm("seqkd", "text", -0.02),
        _arm("broken", "logits", 3.0, shows="an error"),
    ]
    given = [
        _with(arm, arm.against_sft.model_copy(update={"p": p}))
        for arm, p in zip(arms, (0.001, 0.03, 1e-9), strict=True)
        if arm.against_sft is not None
    ]
    found = [arm.against_sft for arm in with_adjusted(given)]
    assert [None if one is None else one.adjusted_p for one in found] == [0.002, 0.03, None]
    assert [None if one is None else one.outcome for one in found] == ["better", "better", "worse"]


def test_the_headline_says_for_each_level_what_it_buys() -> None:
    arms = [
        _arm("sft-twice", "none", 0.2),
        _arm("seqkd", "text", 0.002),
        _arm("logits", "logits", -0.09),
        _arm("reverse", "logits", -0.03),
        _arm("states", "internals", 0.08),
        _arm("projection", "logits", -0.05, across=True),
        _arm("broken", "text", -9.0, shows="an error"),
    ]
    assert headline(arms) == (
        "Beyond SFT, on the data set's answers: other arms without a teacher (sft-twice) cost 0.200 nats per token and "
        "bring the student 13 % nearer to the teacher; the teacher's answers (seqkd) make no difference beyond "
        "the interval and bring the student 13 % nearer to the teacher; the teacher's logits (logits, best of 2) buy "
        "0.090 nats per token, 27 % of the gap, and bring the student 13 % nearer to the teacher; the teacher's hidden "
        "states or attention (states) cost 0.080 nats per token and bring the student 13 % nearer to the teacher; the "
        "teacher's logits, from a teacher with other tokens, (projection) buy 0.050 nats per token."
    )
    assert headline([]).startswith("No arm of this study has access to a teacher")

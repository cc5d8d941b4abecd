"""Every term passes this suite, built from its settings as a run builds it."""

from __future__ import annotations

import math
from pkgutil import resolve_name
from typing import get_args

import pytest
import torch

from distillab.config.layer_terms import (
    AttentionMapsConfig,
    AttentionRelationsConfig,
    ContrastiveConfig,
    HiddenStatesConfig,
    SpanHiddenStatesConfig,
)
from distillab.config.methods import METHODS
from distillab.config.term_base import BaseTermConfig
from distillab.config.terms import (
    CrossEntropyConfig,
    DualSpaceConfig,
    MeasuredTransportConfig,
    MergedSpansConfig,
    SampledDivergenceConfig,
    SortedProbabilitiesConfig,
    SpanLikelihoodConfig,
    TermConfig,
    TokenDivergenceConfig,
    TopKDivergenceConfig,
    TopKTransportConfig,
    VocabularyProjectionConfig,
)
from distillab.errors import ShapeError, TeacherError
from distillab.objectives import StudentScores, build_objective
from distillab.objectives.term import TokenTerm
from distillab.teachers import FullLogits

V = 11
SETTINGS: list[TermConfig] = [
    CrossEntropyConfig(),
    TokenDivergenceConfig(),
    TokenDivergenceConfig(divergence="reverse_kl", temperature=2.0),
    TokenDivergenceConfig(
        divergence="jensen_shannon", teacher_weight=0.3, temperature=3.0, rescale_by_temperature_squared=True
    ),
    TopKDivergenceConfig(k=4),
    SampledDivergenceConfig(samples=5),
]
READS_TEACHER = [settings for settings in SETTINGS if settings.access != "none"]
# these compare activations, and have suites of their own: test_hidden_states.py, test_attention.py
ON_ACTIVATIONS = {HiddenStatesConfig, AttentionRelationsConfig, AttentionMapsConfig}
# these read two tokenisations, and have suites of their own: test_span_terms.py and one a term
ALIGNED = {
    VocabularyProjectionConfig,
    MeasuredTransportConfig,
    TopKTransportConfig,
    SpanLikelihoodConfig,
    SortedProbabilitiesConfig,
    MergedSpansConfig,
    SpanHiddenStatesConfig,
    ContrastiveConfig,
    DualSpaceConfig,
}
each_setting = pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: f"{s.kind}-{getattr(s, 'divergence', '')}")


def _term(settings: TermConfig, width: int = V) -> TokenTerm:
    term = build_objective([settings], shared_width=width).terms[0].term
    assert isinstance(term, TokenTerm)
    return term


def _values(settings: TermConfig, student: StudentScores, signal: FullLogits | None) -> torch.Tensor:
    torch.manual_seed(0)  # of the sampled term's draws
    return _term(settings).per_position(student, signal)


def _scores(seed: int = 0, n: int = 6, width: int = V) -> tuple[StudentScores, FullLogits]:
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(n, width, generator=generator)
    teacher = torch.randn(n, width, generator=generator)
    return StudentScores(student, torch.randint(0, V, (n,), generator=generator)), FullLogits(teacher)


def test_no_kind_of_term_is_missing_from_the_suite() -> None:
    union = get_args(TermConfig)[0]
    assert {type(settings) for settings in SETTINGS} | ON_ACTIVATIONS | ALIGNED == set(get_args(union))


@pytest.mark.parametrize("settings", get_args(get_args(TermConfig)[0]), ids=lambda s: s.__name__)
def test_settings_and_class_name_each_other(settings: type[BaseTermConfig]) -> None:
    term = resolve_name(settings.target)
    assert (term.name, term.access, term.tokens) == (
        settings.model_fields["kind"].default,
        settings.access,
        settings.tokens,
    )
    assert f"{term.__module__}:{term.__name__}" == settings.target


@each_setting
def test_gives_one_value_a_position_and_agrees_with_its_settings_on_needs(settings: TermConfig) -> None:
    term = _term(settings)
    values = term.per_position(*_scores())
    assert values.shape == (6,) and values.dtype == torch.float32
    assert (term.access, term.tokens, term.name) == (settings.access, settings.tokens, settings.kind)


@each_setting
def test_invariant_to_a_shift_of_the_logits(settings: TermConfig) -> None:
    student, signal = _scores()
    shifted = StudentScores(student.logits_NV + 3.0, student.targets_N)
    torch.testing.assert_close(
        _values(settings, shifted, FullLogits(signal.logits_NW - 2.0)), _values(settings, student, signal)
    )


def test_cross_entropy_equals_a_naive_loop() -> None:
    student, _ = _scores()
    values = _term(CrossEntropyConfig()).per_position(student, None)
    for row, target, value in zip(student.logits_NV.tolist(), student.targets_N.tolist(), values.tolist(), strict=True):
        assert value == pytest.approx(math.log(sum(math.exp(x) for x in row)) - row[target], abs=1e-5)


def _naive_forward_kl(student: list[float], teacher: list[float], temperature: float) -> float:
    def softmax(row: list[float]) -> list[float]:
        exp = [math.exp(x / temperature) for x in row]
        return [x / sum(exp) for x in exp]

    return sum(p * math.log(p / q) for p, q in zip(softmax(teacher), softmax(student), strict=True))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("rescale", [False, True])
def test_temperature_and_its_square_act_as_stated(temperature: float, rescale: bool) -> None:
    student, signal = _scores()
    settings = TokenDivergenceConfig(temperature=temperature, rescale_by_temperature_squared=rescale)
    values = _term(settings).per_position(student, signal)
    factor = temperature**2 if rescale else 1.0
    for s, t, value in zip(student.logits_NV.tolist(), signal.logits_NW.tolist(), values.tolist(), strict=True):
        assert value == pytest.approx(factor * _naive_forward_kl(s, t, temperature), abs=1e-5)


def test_rescaling_keeps_the_gradient_size_over_temperatures() -> None:
    """Hinton et al. 2015, section 2: for high temperatures the gradient is scaled by 1/T², which T² undoes."""

    def gradient(temperature: float, rescale: bool) -> float:
        student, signal = _scores()
        logits = (0.1 * student.logits_NV).requires_grad_()
        settings = TokenDivergenceConfig(temperature=temperature, rescale_by_temperature_squared=rescale)
        scores = StudentScores(logits, student.targets_N)
        _term(settings).per_position(scores, FullLogits(0.1 * signal.logits_NW)).sum().backward()
        assert logits.grad is not None
        return float(logits.grad.norm())

    assert gradient(8, True) == pytest.approx(gradient(4, True), rel=0.05)
    assert gradient(8, False) == pytest.approx(gradient(4, False) / 4, rel=0.05)


def test_padded_rows_of_either_side_get_no_probability() -> None:
    """A wider teacher's unused rows must not take mass (one peer pads with 0, another with the other model's)."""
    student, signal = _scores()
    wide_teacher = torch.cat([signal.logits_NW, torch.full((6, 5), 9.0)], dim=1)
    wide_student = torch.cat([student.logits_NV, torch.full((6, 2), 7.0)], dim=1)
    for settings in READS_TEACHER:
        wide = _values(settings, StudentScores(wide_student, student.targets_N), FullLogits(wide_teacher))
        torch.testing.assert_close(wide, _values(settings, student, signal))


def test_signals_that_do_not_fit_are_refused() -> None:
    student, signal = _scores()
    term = _term(TokenDivergenceConfig())
    with pytest.raises(ShapeError, match="do not fit"):
        term.per_position(student, FullLogits(signal.logits_NW[:-1]))
    with pytest.raises(ShapeError, match="do not fit"):
        _term(TokenDivergenceConfig(), width=V + 1).per_position(student, signal)
    with pytest.raises(TeacherError, match="there is none"):
        term.per_position(student, None)


def test_equal_models_have_no_divergence() -> None:
    student, _ = _scores()
    for settings in READS_TEACHER:
        value = _term(settings).per_position(student, FullLogits(student.logits_NV.clone()))
        torch.testing.assert_close(value, torch.zeros(6), atol=1e-6, rtol=0)


def test_needs_of_a_method_come_from_its_terms_and_answers() -> None:
    assert [(name, m.access, m.tokens) for name, m in METHODS.items()] == [
        ("sft", "none", "any"),
        ("seqkd", "text", "any"),
        ("logits", "logits", "shared"),
        ("hidden_states", "internals", "shared"),
        ("attention", "internals", "shared"),
        ("white_box", "internals", "shared"),
        ("vocabulary_projection", "logits", "aligned"),
        ("measured_transport", "logits", "aligned"),
        ("span_likelihood", "logits", "aligned"),
        ("sorted_probabilities", "logits", "aligned"),
        ("merged_spans", "logits", "aligned"),
        ("dual_space", "internals", "aligned"),
        ("contrastive", "internals", "aligned"),
        ("span_hidden_states", "internals", "aligned"),
        ("on_policy", "logits", "shared"),
        ("on_policy_pure", "logits", "shared"),
        ("gkd", "logits", "shared"),
    ]

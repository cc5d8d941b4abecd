"""The term `top_k_divergence` as a run builds it. References are loops over tokens."""

from __future__ import annotations

import math

import pytest
import torch

from distillab.config.terms import TokenDivergenceConfig, TopKDivergenceConfig
from distillab.errors import ConfigError, ShapeError, TeacherError
from distillab.objectives.term import StudentScores
from distillab.objectives.token_divergence import TokenDivergence
from distillab.objectives.top_k_divergence import TopKDivergence
from distillab.teachers import FullLogits

V = 11


def scores(seed: int = 0, n: int = 6, width: int = V) -> tuple[StudentScores, FullLogits]:
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(n, width, generator=generator)
    return StudentScores(student, torch.zeros(n, dtype=torch.long)), FullLogits(
        2 * torch.randn(n, width, generator=generator)
    )


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    exp = [math.exp(x / temperature) for x in row]
    return [x / sum(exp) for x in exp]


def naive(student: list[float], teacher: list[float], k: int, tail: str, temperature: float) -> float:
    """Forward KL over the kept tokens and what the policy makes of the others."""
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    kept = sorted(range(len(p)), key=lambda i: -p[i])[:k]
    p_kept, q_kept = [p[i] for i in kept], [q[i] for i in kept]
    if tail == "cell":
        p_kept, q_kept = [*p_kept, 1 - sum(p_kept)], [*q_kept, 1 - sum(q_kept)]
    if tail == "renormalise":
        p_kept, q_kept = [x / sum(p_kept) for x in p_kept], [x / sum(q_kept) for x in q_kept]
    return sum(a * math.log(a / b) for a, b in zip(p_kept, q_kept, strict=True))


@pytest.mark.parametrize("tail", ["cell", "renormalise", "drop_tail"])
@pytest.mark.parametrize(("temperature", "rescale"), [(1.0, False), (2.5, False), (2.5, True)])
def test_equals_the_naive_loop(tail: str, temperature: float, rescale: bool) -> None:
    student, signal = scores()
    settings = TopKDivergenceConfig(k=4, tail=tail, temperature=temperature, rescale_by_temperature_squared=rescale)
    values = TopKDivergence(settings, shared_width=V).per_position(student, signal)
    assert values.shape == (6,) and values.dtype == torch.float32
    for s, t, found in zip(student.logits_NV.tolist(), signal.logits_NW.tolist(), values.tolist(), strict=True):
        expected = naive(s, t, 4, tail, temperature) * (temperature**2 if rescale else 1.0)
        assert found == pytest.approx(expected, rel=5e-6, abs=1e-6)


@pytest.mark.parametrize(
    "parameters",
    [
        {"divergence": "forward_kl"},
        {"divergence": "reverse_kl"},
        {"divergence": "jensen_shannon", "teacher_weight": 0.3},
        {"divergence": "skewed_forward_kl", "skew": 0.1},
        {"divergence": "skewed_reverse_kl", "skew": 0.1},
        {"divergence": "adaptive_kl", "head_mass": 0.5},
        {"divergence": "total_variation"},
        {"divergence": "alpha_beta", "alpha": 0.2, "beta": 0.7},
    ],
    ids=lambda p: p["divergence"],
)
def test_all_tokens_kept_is_the_dense_term_in_value_and_gradient(parameters: dict[str, object]) -> None:
    student, signal = scores()
    logits = student.logits_NV.requires_grad_()
    found = TopKDivergence(TopKDivergenceConfig(k=V, temperature=2.0, **parameters), shared_width=V)
    dense = TokenDivergence(TokenDivergenceConfig(temperature=2.0, **parameters), shared_width=V)
    values, expected = found.per_position(student, signal), dense.per_position(student, signal)
    torch.testing.assert_close(values, expected, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad(values.sum(), logits, retain_graph=True), torch.autograd.grad(expected.sum(), logits)
    )


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl"])
def test_more_tokens_never_lower_the_value(divergence: str) -> None:
    student, signal = scores()
    terms = [TopKDivergence(TopKDivergenceConfig(k=k, divergence=divergence), shared_width=V) for k in range(1, V + 1)]
    values = torch.stack([term.per_position(student, signal) for term in terms])
    assert bool((values.diff(dim=0) >= -1e-6).all()) and bool((values[-1] > values[0]).all())


def test_reverse_kl_stays_finite_where_the_teacher_is_nearly_sure() -> None:
    # what is outside is 1e-9: 1 − Σ kept is 0 in float32, and reverse KL of that infinite
    student, _ = scores()
    teacher = torch.zeros(6, V)
    teacher[:, 3] = 23.0
    term = TopKDivergence(TopKDivergenceConfig(k=2, divergence="reverse_kl"), shared_width=V)
    assert bool(term.per_position(student, FullLogits(teacher)).isfinite().all())


@pytest.mark.parametrize("tail", ["cell", "renormalise", "drop_tail"])
def test_rows_that_are_not_shared_are_not_read(tail: str) -> None:
    student, signal = scores()
    term = TopKDivergence(TopKDivergenceConfig(k=4, tail=tail), shared_width=V)
    wide_student = StudentScores(torch.cat([student.logits_NV, torch.full((6, 2), 7.0)], dim=1), student.targets_N)
    wide_teacher = FullLogits(torch.cat([signal.logits_NW, torch.full((6, 5), 9.0)], dim=1))
    torch.testing.assert_close(
        term.per_position(wide_student, wide_teacher), term.per_position(student, signal), atol=0, rtol=0
    )


def test_only_forward_kl_has_a_meaning_without_the_tail() -> None:
    TopKDivergence(TopKDivergenceConfig(k=2, tail="drop_tail"), shared_width=V)
    for divergence in ("reverse_kl", "total_variation"):
        settings = TopKDivergenceConfig(k=2, tail="drop_tail", divergence=divergence)
        with pytest.raises(ConfigError, match="only forward KL") as error:
            TopKDivergence(settings, shared_width=V)
        assert divergence in str(error.value) and "tail: cell" in str(error.value)


def test_more_tokens_than_are_shared_are_refused() -> None:
    with pytest.raises(ConfigError, match="larger than the number of ids"):
        TopKDivergence(TopKDivergenceConfig(k=V + 1), shared_width=V)


def test_signals_that_do_not_fit_are_refused() -> None:
    student, signal = scores()
    term = TopKDivergence(TopKDivergenceConfig(k=2), shared_width=V)
    with pytest.raises(ShapeError, match="do not fit"):
        term.per_position(student, FullLogits(signal.logits_NW[:-1]))
    with pytest.raises(TeacherError, match="there is none"):
        term.per_position(student, None)

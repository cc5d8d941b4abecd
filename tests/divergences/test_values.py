"""What is special to one divergence: values by hand, limits, bounds, symmetries."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distillab.divergences import (
    adaptive_kl,
    alpha_beta,
    divergence,
    forward_kl,
    jensen_shannon,
    reverse_kl,
    skewed_forward_kl,
    skewed_reverse_kl,
    total_variation,
)
from tests.divergences.members import distributions, kl, logp, value

Pair = tuple[list[float], list[float]]

# Three symbols, teacher p and student q. Logarithms by table: log 2 = 0.69314718, log 3 = 1.09861229,
# log(16/7) = 0.82667857, log(8/5) = 0.47000363, log(2/5) = −0.91629073, log(4/13) = −1.17865500,
# log(4/7) = −0.55961579.
P, Q = [1 / 2, 1 / 4, 1 / 4], [1 / 8, 1 / 8, 3 / 4]
BY_HAND = [
    # 1/2·log 4 + 1/4·log 2 + 1/4·log(1/3) = 0.69314718 + 0.17328680 − 0.27465307
    ("forward_kl", {}, 0.59178091),
    # 1/8·log(1/4) + 1/8·log(1/2) + 3/4·log 3 = −0.17328680 − 0.08664340 + 0.82395922
    ("reverse_kl", {}, 0.56402902),
    # α = 1/4: M = 1/4·p + 3/4·q = (7/32, 5/32, 5/8)
    # KL(p‖M) = 1/2·log(16/7) + 1/4·log(8/5) + 1/4·log(2/5) = 0.41333929 + 0.11750091 − 0.22907268
    ("skewed_forward_kl", {"skew": 0.25}, 0.30176752),
    # α = 1/4: M = 3/4·p + 1/4·q = (13/32, 7/32, 3/8)
    # KL(q‖M) = 1/8·log(4/13) + 1/8·log(4/7) + 3/4·log 2 = −0.14733187 − 0.06995197 + 0.51986038
    ("skewed_reverse_kl", {"skew": 0.25}, 0.30257654),
    # w = 1/4: the same M as of the skewed forward KL; KL(q‖M) = 1/8·log(4/7) + 1/8·log(4/5) + 3/4·log(6/5)
    # = −0.06995197 − 0.02789294 + 0.13674117 = 0.03889626; D = 1/4·0.30176752 + 3/4·0.03889626
    ("jensen_shannon", {"teacher_weight": 0.25}, 0.10461407),
    # head of mass 1/2: the first symbol; g_head = 3/8, g_tail = 1/8 + 1/2 = 5/8, their sum 1
    # 3/8·0.59178091 + 5/8·0.56402902
    ("adaptive_kl", {"head_mass": 0.5}, 0.57443598),
    # head of more than 1/2: the first symbol and both of 1/4, which are alike: all is head, forward KL
    ("adaptive_kl", {"head_mass": 0.51}, 0.59178091),
    # 1/2·(3/8 + 1/8 + 1/2)
    ("total_variation", {}, 0.5),
    # α = β = 1: −Σ[pq − p²/2 − q²/2] = 1/2·Σ(p−q)² = 1/2·(9 + 1 + 16)/64
    ("alpha_beta", {"alpha": 1.0, "beta": 1.0}, 0.203125),
    # α = β = 1/2: −4·[Σ√(pq) − 1/2 − 1/2] with √(1/16) + √(1/32) + √(3/16) = 0.25 + 0.17677670 + 0.43301270
    ("alpha_beta", {"alpha": 0.5, "beta": 0.5}, 0.56084240),
    # α = 2, β = 0: 1/4·Σ[p²·log(p²/q²) − p² + q²]; p²·log: 1/4·2·log 4, 1/16·2·log 2, 1/16·2·log(1/3)
    # = 0.69314718 + 0.08664340 − 0.13732654 = 0.64246404; Σp² = 3/8, Σq² = 19/32; 1/4·(0.64246404 + 7/32)
    ("alpha_beta", {"alpha": 2.0, "beta": 0.0}, 0.21530351),
    # α = 0, β = 2, the roles exchanged: 1/4·Σ[q²·log(q²/p²) − q² + p²]; 1/64·2·log(1/4) + 1/64·2·log(1/2)
    # + 9/16·2·log 3 = −0.04332170 − 0.02166085 + 1.23593882 = 1.17095628; 1/4·(1.17095628 − 7/32)
    ("alpha_beta", {"alpha": 0.0, "beta": 2.0}, 0.23805157),
    # α = 1, β = −1: Σ[log(q/p) + p/q − 1]; p/q = 4, 2, 1/3, their logarithms' sum 0.98082925; 19/3 − 3 − that
    ("alpha_beta", {"alpha": 1.0, "beta": -1.0}, 2.35250408),
    # α = β = 0: 1/2·[(log 4)² + (log 2)² + (log 3)²] = 1/2·(1.92181206 + 0.48045301 + 1.20694896)
    ("alpha_beta", {"alpha": 0.0, "beta": 0.0}, 1.80460702),
]


@pytest.mark.parametrize(("name", "parameters", "expected"), BY_HAND)
def test_values_by_hand(name: str, parameters: dict[str, float], expected: float) -> None:
    assert value(divergence(name, parameters), P, Q) == pytest.approx(expected, abs=2e-8)
    single = divergence(name, parameters)(student_logp=logp(Q, torch.float32), teacher_logp=logp(P, torch.float32))
    assert single.item() == pytest.approx(expected, abs=1e-6)


def test_forward_kl_gradient_is_student_minus_teacher() -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(4, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    teacher = torch.randn(4, 6, dtype=torch.float64, generator=generator).log_softmax(-1)
    forward_kl(student_logp=logits.log_softmax(-1), teacher_logp=teacher).sum().backward()
    torch.testing.assert_close(logits.grad, logits.detach().softmax(-1) - teacher.exp())


@given(pair=distributions())
def test_directions_are_what_their_names_say(pair: Pair) -> None:
    p, q = pair
    assert value(forward_kl, p, q) == pytest.approx(value(reverse_kl, q, p), abs=1e-12)
    for skew in (0.1, 0.7):
        forward = value(divergence("skewed_forward_kl", {"skew": skew}), p, q)
        assert forward == pytest.approx(value(divergence("skewed_reverse_kl", {"skew": skew}), q, p), abs=1e-12)


@given(pair=distributions())
def test_both_skewed_kls_over_one_mixture_are_jensen_shannon(pair: Pair) -> None:
    p, q = logp(pair[0]), logp(pair[1])
    for w in (0.2, 0.5):
        parts = w * skewed_forward_kl(student_logp=q, teacher_logp=p, skew=w)
        parts += (1 - w) * skewed_reverse_kl(student_logp=q, teacher_logp=p, skew=1 - w)
        torch.testing.assert_close(parts, jensen_shannon(student_logp=q, teacher_logp=p, teacher_weight=w))


@settings(max_examples=30)
@given(pair=distributions())
def test_jensen_shannon_tends_to_both_kls(pair: Pair) -> None:
    p, q = pair
    w = 1e-7
    near_zero = value(divergence("jensen_shannon", {"teacher_weight": w}), p, q) / w
    near_one = value(divergence("jensen_shannon", {"teacher_weight": 1 - w}), p, q) / w
    assert near_zero == pytest.approx(kl(p, q), abs=1e-5)
    assert near_one == pytest.approx(kl(q, p), abs=1e-5)


@settings(max_examples=30)
@given(pair=distributions())
def test_skewed_kls_tend_to_the_kls_and_fall_with_the_skew(pair: Pair) -> None:
    p, q = pair
    assert value(divergence("skewed_forward_kl", {"skew": 1e-9}), p, q) == pytest.approx(kl(p, q), abs=1e-6)
    assert value(divergence("skewed_reverse_kl", {"skew": 1e-9}), p, q) == pytest.approx(kl(q, p), abs=1e-6)
    for name in ("skewed_forward_kl", "skewed_reverse_kl"):
        falling = [value(divergence(name, {"skew": a}), p, q) for a in (0.05, 0.3, 0.6, 0.95)]
        assert all(a >= b - 1e-12 for a, b in itertools.pairwise(falling))


def test_what_goes_through_a_mixture_is_bounded_where_no_mass_is_shared() -> None:
    # the mixture is the own share alone there: −log α; H(w) for Jensen-Shannon
    p, q = [0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.3, 0.7]
    for w in (0.1, 0.5, 0.8):
        assert value(divergence("skewed_forward_kl", {"skew": w}), p, q) == pytest.approx(-math.log(w))
        assert value(divergence("skewed_reverse_kl", {"skew": w}), p, q) == pytest.approx(-math.log(w))
        entropy = -w * math.log(w) - (1 - w) * math.log(1 - w)
        assert value(divergence("jensen_shannon", {"teacher_weight": w}), p, q) == pytest.approx(entropy)
    assert value(total_variation, p, q) == pytest.approx(1.0)


@given(pair=distributions())
def test_total_variation_is_symmetric_within_zero_and_one_and_obeys_pinsker(pair: Pair) -> None:
    p, q = pair
    distance = value(total_variation, p, q)
    assert distance == pytest.approx(value(total_variation, q, p), abs=1e-15)
    assert 0 <= distance <= 1
    # TV ≤ √(KL/2), and 1 − TV is the mass that both share
    assert distance <= math.sqrt(max(kl(p, q), 0.0) / 2) + 1e-9
    assert 1 - distance == pytest.approx(sum(min(a, b) for a, b in zip(p, q, strict=True)), abs=1e-12)


@given(pair=distributions(), mass=st.floats(0.05, 0.95))
def test_adaptive_kl_lies_between_its_parts(pair: Pair, mass: float) -> None:
    p, q = pair
    both = sorted([kl(p, q), kl(q, p)])
    assert both[0] - 1e-12 <= value(divergence("adaptive_kl", {"head_mass": mass}), p, q) <= both[1] + 1e-12


def test_adaptive_kl_finds_a_head_of_any_size() -> None:
    # flat teachers: the head goes on far behind the first 64 tokens, by mass or by equal probability
    generator = torch.Generator().manual_seed(5)
    q = (2 * torch.randn(4, 700, generator=generator, dtype=torch.float64)).log_softmax(-1)
    p = torch.zeros(4, 700, dtype=torch.float64)
    p[1] = 0.1 * torch.randn(700, generator=generator, dtype=torch.float64)
    p[2] = 3 * torch.randn(700, generator=generator, dtype=torch.float64)
    p[3, :200] = 2.0
    p = p.log_softmax(-1)
    found = adaptive_kl(student_logp=q, teacher_logp=p, head_mass=0.6).tolist()
    for row in range(4):
        a, b = p[row].exp().tolist(), q[row].exp().tolist()
        order = sorted(a, reverse=True)
        needed = next(n for n in range(1, 701) if sum(order[:n]) >= 0.6 - 1e-9)
        border = order[needed - 1]
        head = sum(abs(x - y) for x, y in zip(a, b, strict=True) if x >= border)
        share = head / sum(abs(x - y) for x, y in zip(a, b, strict=True))
        assert found[row] == pytest.approx(share * kl(a, b) + (1 - share) * kl(b, a), rel=1e-9)


@given(pair=distributions())
def test_alpha_beta_holds_both_kls_and_exchanges_its_sides_with_its_powers(pair: Pair) -> None:
    p, q = pair
    assert value(divergence("alpha_beta", {"alpha": 1.0, "beta": 0.0}), p, q) == pytest.approx(kl(p, q), abs=1e-12)
    assert value(divergence("alpha_beta", {"alpha": 0.0, "beta": 1.0}), p, q) == pytest.approx(kl(q, p), abs=1e-12)
    for a, b in ((0.2, 0.7), (1.5, -0.5), (0.6, 0.0)):
        one = value(divergence("alpha_beta", {"alpha": a, "beta": b}), p, q)
        other = value(divergence("alpha_beta", {"alpha": b, "beta": a}), q, p)
        assert one == pytest.approx(other, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize(
    "limit", [(1.0, 0.0), (0.3, 0.0), (0.0, 1.0), (0.0, 0.4), (0.5, -0.5), (-0.7, 0.7), (0.0, 0.0)]
)
@pytest.mark.parametrize("towards", [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (-1.0, 0.5)])
def test_alpha_beta_is_continuous_at_its_limits(limit: tuple[float, float], towards: tuple[float, float]) -> None:
    p, q = [0.6, 0.3, 0.1], [0.2, 0.3, 0.5]
    at = value(divergence("alpha_beta", {"alpha": limit[0], "beta": limit[1]}), p, q)
    # next to (0, 0) less than 1e-6 is refused
    for step in (1e-3, 1e-6, 1e-9, 1e-12) if limit != (0.0, 0.0) else (1e-3, 1e-6):
        a, b = limit[0] + step * towards[0], limit[1] + step * towards[1]
        near = value(divergence("alpha_beta", {"alpha": a, "beta": b}), p, q)
        assert near == pytest.approx(at, abs=10 * step + 1e-9)


@pytest.mark.parametrize(("a", "b"), [(1e-4, 1.0), (0.7, 1e-4), (1e-3, 1e-3), (0.5, -0.4999), (0.04, 0.03)])
def test_alpha_beta_keeps_float32_near_its_limits(a: float, b: float) -> None:
    """The published formula loses them: it subtracts powers that are nearly equal, and divides by αβ."""
    generator = torch.Generator().manual_seed(7)
    student, teacher = (torch.randn(4, 500, generator=generator).log_softmax(-1) for _ in range(2))
    single = alpha_beta(student_logp=student, teacher_logp=teacher, alpha=a, beta=b)
    exact = alpha_beta(student_logp=student.double(), teacher_logp=teacher.double(), alpha=a, beta=b)
    torch.testing.assert_close(single.double(), exact, rtol=5e-6, atol=1e-6)


@pytest.mark.parametrize(("alpha", "beta"), [(0.7, -0.3), (0.3, -0.7), (-0.3, 0.7), (-0.5, -0.5), (2.0, -1.5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_alpha_beta_with_negative_powers_of_almost_nothing(alpha: float, beta: float, dtype: torch.dtype) -> None:
    """Powers that no number holds: infinite where the sides differ there, 0 where they are equal, never NaN."""
    even, faint, fainter = (
        torch.tensor([[x, 0.0]], dtype=dtype) for x in (math.log(0.5), -3000.0 / min(-alpha, -beta, -0.3), -50000.0)
    )
    even[0, 1] = math.log(0.5)
    for student, teacher in ((faint, even), (even, faint), (faint, fainter), (fainter, faint), (fainter, even)):
        found = alpha_beta(student_logp=student, teacher_logp=teacher, alpha=alpha, beta=beta)
        assert not found.isnan() and found > 0
    for side in (faint, fainter):
        assert alpha_beta(student_logp=side, teacher_logp=side.clone(), alpha=alpha, beta=beta).item() == 0
    # of the two sides the one with the negative power decides
    decides = alpha_beta(student_logp=fainter, teacher_logp=even, alpha=alpha, beta=beta)
    assert math.isinf(decides.item()) == (beta < 0)

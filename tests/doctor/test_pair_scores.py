"""A server's scores against those of another model: at their place, beside it, of other text."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from tests.doctor.pair_samples import TEACHER, model_of, reader_of, stories
from torch import Tensor

from distillab.doctor import audit_scores
from distillab.doctor.pair.signal import _at
from distillab.errors import DataError, ShapeError
from distillab.records import CheckResult

ROWS, LENGTH = 24, 64


@pytest.fixture(scope="module")
def scored(materials: Path) -> tuple[Tensor, Tensor]:
    """(B, L) log-probabilities of the same tokens by a teacher and by another model; the first has none."""
    reader = reader_of(materials / "models" / TEACHER)
    rows = [reader.encoder.encode(example) for example in stories(materials)]
    ids = torch.stack([torch.from_numpy(row.input_ids[:LENGTH]).long() for row in rows if len(row) >= LENGTH][:ROWS])

    def by(name: str) -> Tensor:
        with torch.no_grad():
            logp = model_of(materials, name)(ids).logits[:, :-1].log_softmax(-1)
        return torch.cat([torch.full((len(ids), 1), math.nan), logp.gather(-1, ids[:, 1:, None])[..., 0]], dim=1)

    return by(TEACHER), by("llama2xs-tok512")


def ids_of(result: CheckResult) -> list[str]:
    return [finding.id for finding in result.findings]


def test_two_models_find_the_same_tokens_hard(scored: tuple[Tensor, Tensor]) -> None:
    result = audit_scores(*scored)
    assert result.skipped is None and not result.findings
    assert float(result.scope.rpartition(" ")[2]) > 0.5, result.scope


@pytest.mark.parametrize("steps", [1, -1, 2])
def test_scores_beside_their_tokens(steps: int, scored: tuple[Tensor, Tensor]) -> None:
    (finding,) = audit_scores(scored[0].roll(steps, dims=1), scored[1]).findings
    assert finding.id == "scores-shifted" and f"offset {steps:+d}" in finding.explanation


def test_scores_of_other_rows(scored: tuple[Tensor, Tensor]) -> None:
    (finding,) = audit_scores(scored[0].roll(1, dims=0), scored[1]).findings
    assert (finding.id, finding.severity) == ("scores-unrelated", "warning")


def test_an_order_is_kept_by_another_temperature(scored: tuple[Tensor, Tensor]) -> None:
    assert ids_of(audit_scores(scored[0] / 2, scored[1])) == []


def test_what_cannot_be_judged(scored: tuple[Tensor, Tensor]) -> None:
    scores, reference = scored
    mask = torch.zeros_like(scores, dtype=torch.bool)
    mask[0, :60] = True
    assert "fewer than 64" in str(audit_scores(scores, reference, mask).skipped)
    assert "same value" in str(audit_scores(torch.full_like(scores, -1.0), reference).skipped)
    with pytest.raises(ShapeError, match=r"scores: .*24, 63"):
        audit_scores(scores[:, 1:], reference)
    with pytest.raises(DataError, match=r"(?s)at most 0.*natural logarithms"):
        audit_scores(scores.exp(), reference)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(-2, 2))
def test_the_correlation_is_spearmans(seed: int, offset: int) -> None:
    x, y = torch.randint(-6, 1, (2, 5, 9), generator=torch.Generator().manual_seed(seed)).double()
    found = _at(x.numpy(), y.numpy(), offset)
    pairs = [(float(x[b, t]), float(y[b, t + offset])) for b in range(5) for t in range(9) if 0 <= t + offset < 9]
    assert found.n == len(pairs)
    assert found.value == pytest.approx(spearmanr(*zip(*pairs, strict=True)).statistic, abs=1e-12)

"""The cache's benchmarks measure what they say."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from bench import cache_quality_table, distillab_steps, pair
from bench.cache_folders import RecordedPair
from bench.cache_pairs import Pair
from bench.cache_rows import rows_of, sampled_layout, sections, top_k_layout
from bench.cache_signals import LIVE, Way, angle_degrees, gradients, recovered, ways
from bench.cache_steps import WAYS, train_offline
from bench.measure import Probe
from bench.settings import OFFLINE, SIZES, Run

from distillab.cache.rows import Sampled, TopK
from distillab.config.cache import FullKind, SampledKind, TopKKind
from distillab.config.data import DataConfig, SourceConfig
from distillab.config.models import TrainingConfig
from distillab.config.terms import (
    CrossEntropyConfig,
    SampledDivergenceConfig,
    TokenDivergenceConfig,
    TopKDivergenceConfig,
)
from distillab.data.collation import Collator
from distillab.data.encoding import EncodedRow
from distillab.objectives import build_objective
from distillab.teachers import LocalTeacher
from distillab.teachers.signals import Distribution, SignalRequest

SIZE = replace(SIZES["tiny"], batch=6)
WIDTH = SIZE.vocabulary
BY_NAME = {way.name: way for way in ways()}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def _teacher() -> LocalTeacher:
    return LocalTeacher(pair.teacher_of(SIZE), distillab_steps.provenance())


@cache
def _rows() -> tuple[EncodedRow, ...]:
    return tuple(distillab_steps.split_of(SIZE).rows)


@cache
def _true_prob() -> torch.Tensor:
    """(all scored tokens, V) float64, by a loop over rows."""
    found = []
    for row in _rows():
        with torch.no_grad():
            logits = _teacher().model(input_ids=torch.tensor(row.input_ids[None].astype(np.int64))).logits[0]
        found += [logits[t - 1].double().softmax(-1) for t in range(1, len(row)) if row.answer_mask[t]]
    return torch.stack(found)


# ---------------------------------------------------------------- gradients


def test_an_angle_is_that_of_the_arms_that_span_it() -> None:
    x = torch.tensor([1.0, 0.0], dtype=torch.float64)
    for degrees in (0.0, 1e-4, 5.0, 60.0, 90.0, 180.0):
        y = 3 * torch.tensor([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))], dtype=torch.float64)
        assert angle_degrees(x, y) == pytest.approx(degrees, rel=1e-6, abs=1e-9)


def test_gradients_are_sums_over_the_rows_so_far() -> None:
    student = pair.student_of(SIZE)
    found = gradients(
        student, _teacher(), TokenDivergenceConfig(), _rows(), collator=Collator(0), width=WIDTH,
        batches=(10, 20, 10_000), batch_size=2,
    )  # fmt: skip
    # a row has 8 scored tokens, two rows are read at once: 16, 32, and all 48
    assert [tokens for tokens, _ in found] == [16, 32, 48]
    for tokens, got in found:
        student.zero_grad()
        for number, row in enumerate(_rows()[: tokens // 8]):
            logits = student(input_ids=torch.tensor(row.input_ids[None].astype(np.int64))).logits[0]
            q = torch.stack([logits[t - 1] for t in range(1, len(row)) if row.answer_mask[t]]).double().log_softmax(-1)
            p = _true_prob()[8 * number : 8 * number + 8]
            (p * (p.log() - q)).sum().backward()
        wanted = torch.cat([p.grad.flatten().double() for p in student.parameters() if p.grad is not None])
        assert angle_degrees(got, wanted) < 0.01
        assert float(got.norm() / wanted.norm()) == pytest.approx(1.0, rel=1e-4)


def test_fine_tuning_has_another_gradient_and_needs_no_teacher() -> None:
    student = pair.student_of(SIZE)
    args = {"collator": Collator(0), "width": WIDTH, "batches": (48,)}
    ((_, full),) = gradients(student, _teacher(), TokenDivergenceConfig(), _rows(), **args)  # type: ignore[arg-type]
    ((_, own),) = gradients(student, _teacher(), CrossEntropyConfig(), _rows(), **args)  # type: ignore[arg-type]
    assert angle_degrees(full, own) > 20


# ---------------------------------------------------------------- what comes back


def _recovered(way: Way, batch_size: int = 4) -> tuple[float, float, float, float]:
    found = recovered(_teacher(), _teacher(), way, _rows(), collator=Collator(0), width=WIDTH, batch_size=batch_size)
    assert found.positions == 48
    return found.from_true, found.to_true, found.mass, found.distinct


def test_nothing_is_lost_where_the_teacher_itself_answers() -> None:
    assert _recovered(Way("f", FullKind(), TokenDivergenceConfig())) == pytest.approx((0, 0, 1, WIDTH), abs=1e-5)
    way = Way("c", TopKKind(k=4), TopKDivergenceConfig(k=4, tail="cell"))
    mass = float(_true_prob().topk(4).values.sum(-1).mean())
    assert _recovered(way) == pytest.approx((0, 0, mass, 4), abs=1e-5)


@pytest.mark.parametrize("tail", ["renormalise", "drop_tail"])
def test_without_its_tail_the_teacher_is_infinitely_far_one_way(tail: str) -> None:
    way = Way("r", TopKKind(k=4), TopKDivergenceConfig.model_validate({"k": 4, "tail": tail}))
    from_true, to_true, _, distinct = _recovered(way)
    # Σ (p/S) log(p/S / p) = −log S
    assert to_true == pytest.approx(float(-_true_prob().topk(4).values.sum(-1).log().mean()), rel=1e-4)
    assert (from_true, distinct) == (math.inf, 4)


def test_draws_are_compared_as_counts() -> None:
    torch.manual_seed(3)
    _, to_true, mass, distinct = _recovered(Way("s", SampledKind(draws=5), SampledDivergenceConfig(samples=5)), 6)
    torch.manual_seed(3)
    batch = Collator(0)
    from bench.cache_signals import IndexedRow

    signal = _teacher().signal(
        batch([IndexedRow(n, row) for n, row in enumerate(_rows())]),
        SignalRequest(frozenset({Distribution(WIDTH)})),
    )
    assert signal.scores is not None
    ids = signal.scores.chunk(slice(None), torch.device("cpu")).drawn(5, WIDTH, 1.0).ids
    nats, kept, different = [], [], []
    for row, p in zip(ids.tolist(), _true_prob(), strict=True):
        share = {token: row.count(token) / 5 for token in row}
        nats.append(sum(r * math.log(r / float(p[token])) for token, r in share.items()))
        kept.append(sum(float(p[token]) for token in share))
        different.append(len(share))
    assert to_true == pytest.approx(np.mean(nats), rel=1e-4)
    assert (mass, distinct) == (pytest.approx(np.mean(kept), rel=1e-4), pytest.approx(np.mean(different)))


def test_a_pair_is_recorded_once_and_its_bytes_are_those_of_the_layout(materials: Path, tmp_path: Path) -> None:
    text = materials / "text" / "tinystories" / "stories_dev.jsonl"
    small = Pair(
        name="small",
        teacher=str(materials / "models" / "stories260K-tok512"),
        student="unread",
        data=DataConfig(train=SourceConfig(path=str(text), limit=6), max_tokens=40),
        held_out_rows=1,
        training=TrainingConfig(steps=1),
        partly=1,
    )
    recorded = RecordedPair(small, tmp_path)
    recorded.record()
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    recorded.record()
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    rows = small.train.rows
    scored = [int(row.answer_mask.sum()) for row in rows]
    for name, way in BY_NAME.items():
        if way.kind is None:
            continue
        objective = build_objective((way.term,), shared_width=small.width)
        recorded.teacher(way).require(objective.request, packing=False)
        size = recorded.size(way)
        assert size.tokens == sum(scored)
        assert (size.head > 0) == (name == "full")
        assert size.rest > sum(len(row) * 10 / 8 for row in rows)  # its tokens at 9 bits and a bit of mask
        if isinstance(way.kind, TopKKind):
            # N·K ids at 9 bits in groups of 8, a byte each of log-probability, tail and actual token at 2 bytes
            assert size.kind == sum(n * 4 + n * way.kind.k + math.ceil(n * way.kind.k / 8) * 9 for n in scored)


# ---------------------------------------------------------------- steps from a cache


@pytest.mark.parametrize("case", OFFLINE)
def test_steps_from_a_cache_are_those_of_the_teacher_that_was_recorded(case: str) -> None:
    probes = {name: Probe(warmup=1, steps=3) for name in (case, "live")}
    train_offline(Run(case, size="tiny"), probes[case])
    teacher = LocalTeacher(pair.teacher_of(SIZES["tiny"]), distillab_steps.provenance())
    term = WAYS[case][1]
    run = Run("forward_kl", size="tiny")
    distillab_steps.take_steps(run, probes["live"], student=pair.student_of(run.shape), teacher=teacher, terms=(term,))
    assert len(probes[case].measured) == 3
    # nats: the same numbers; a byte each; other draws, 800 of them, whose log-ratios have a deviation of about 0.3
    tolerance = {"offline_full": 1e-6, "offline_top_k": 1e-3, "offline_sampled": 0.06}[case]
    assert probes[case].losses == pytest.approx(probes["live"].losses, abs=tolerance)
    assert probes[case].losses[0] > probes[case].losses[-1]


# ---------------------------------------------------------------- made-up rows, tables


def test_made_up_rows_are_distributions() -> None:
    for section in sections(top_k_layout(16), 3, positions=20):
        assert isinstance(section, TopK)
        assert np.allclose(np.exp(section.logp).sum(1) + np.exp(section.tail_logmass), 1, atol=1e-5)
        assert (np.diff(section.logp, axis=1) <= 0).all()
        assert all(len(set(ids)) == 16 for ids in section.ids.tolist())
    distinct = []
    for section in sections(sampled_layout(50), 10):
        assert isinstance(section, Sampled)
        assert np.add.reduceat(section.counts, np.cumsum(section.distinct) - section.distinct).tolist() == [50] * 100
        distinct.append(section.distinct.mean())
    assert np.mean(distinct) == pytest.approx(12, abs=1)  # what a trained teacher's 50 draws are
    rows = rows_of([top_k_layout(4)], 5, positions=9)
    assert len({row.input_ids.tobytes() for row in rows}) == 5
    assert all(row.answer_mask.sum() == 9 and set(row.sections) == {"top_k"} for row in rows)


def test_every_way_has_a_line_and_each_size_one_column() -> None:
    gradient = [{"tokens": 1000, "angle": 2.5, "norm": 1.25}, {"tokens": 4000, "angle": 1.25, "norm": 1.125}]
    entry = {
        "gradient": gradient,
        "bytes": {"kind": 500, "rest": 100, "head": 0, "tokens": 10},
        "recovered": {"positions": 10, "from_true": math.inf, "to_true": 0.5, "mass": 0.75, "distinct": 12.0},
    }
    signals = {name: entry if BY_NAME[name].kind else {"gradient": gradient} for name in BY_NAME}
    students = [
        {"way": way, "seed": seed, "nats": nats + seed, "kl": 0.5, "accuracy": 0.5, "confidence": 0.75,
         "expected_error": 0.25, "tokens": 10}
        for way, nats in ((LIVE, 1.0), ("sampled 50", 1.5))
        for seed in (0, 1)
    ]  # fmt: skip
    text = cache_quality_table.tables("demo", {"signals": signals, "students": students})
    assert "| sampled 50 | 50.0 | 60.0 | 12.0 | 0.7500 | ∞ | 0.500 | 2.50° | 1.25° | 1.125 |" in text
    assert "angle, 1,000 tokens | angle, 4,000 tokens" in text
    # paired by seed: the difference is 0.5 in both, though the seeds are a nat apart
    assert "| sampled 50 | 2 | 2.000 ± 0.707 | +0.500 ± 0.000 |" in text
    assert "+0.250 ± 0.000 | 0.250 ± 0.000 |" in text
    assert all(f"| {name} |" in text for name in BY_NAME if name != LIVE)

"""The contract of every kind of cache: a student that learns from it gets what it gets from the teacher itself.

The tolerances are what the kind's layout rounds: nothing for exact states, a float16 or a byte for others. Each is
about three times what was seen.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from distillab.cache.rows import row_digest
from distillab.config.cache import (
    AttentionInputsKind,
    FullKind,
    HiddenStatesKind,
    Kind,
    KindConfig,
    SampledKind,
    TopKKind,
)
from distillab.config.layer_terms import AttentionRelationsConfig, HiddenStatesConfig
from distillab.config.terms import (
    CrossEntropyConfig,
    SampledDivergenceConfig,
    TermConfig,
    TokenDivergenceConfig,
    TopKDivergenceConfig,
)
from distillab.data.collation import Collator, IndexedRow
from distillab.data.encoding import EncodedRow
from distillab.models.batch import TokenBatch
from distillab.models.structure import model_shape
from distillab.objectives import build_objective
from distillab.objectives.step import measure
from distillab.objectives.term import Objective
from distillab.teachers.drawing import row_points
from distillab.teachers.local import LocalTeacher
from distillab.teachers.protocol import SignalSource
from distillab.teachers.signals import Draws, SignalRequest
from tests.teachers.cache_building import CPU, PAD, build, cached, peaked_teacher
from tests.training.conftest import PACKED_TOKENS, VOCABULARY, ragged_split, tiny_llama

ROWS = ragged_split(13).rows
EVERYTHING = slice(None)
HIDDEN = HiddenStatesConfig(layers=((1, 2), (2, 3)))
HIDDEN_ALL = HiddenStatesConfig(layers=((0, 0), (1, 2)), positions="all", loss="cosine")
RELATIONS = AttentionRelationsConfig(layers=((1, 1), (2, 3)))
RELATIONS_ALL = AttentionRelationsConfig(layers=((2, 2),), positions="all", relations=("query", "value"))


@dataclass(frozen=True)
class Case:
    """A kind of cache, what may be read of it, and how far loss and gradient may be off, relative to their size."""

    kind: KindConfig
    terms: tuple[TermConfig, ...]
    tolerance: float


CASES = {
    "full": Case(
        FullKind(),
        (
            TokenDivergenceConfig(temperature=2.0),
            TokenDivergenceConfig(divergence="jensen_shannon", teacher_weight=0.3),
            TopKDivergenceConfig(k=5, tail="renormalise"),
        ),
        1e-6,
    ),
    "full in bfloat16": Case(FullKind(store="bfloat16"), (TokenDivergenceConfig(temperature=2.0),), 6e-3),
    "top_k in float16": Case(TopKKind(k=9, values="float16"), (TopKDivergenceConfig(k=9),), 6e-4),
    "fewer than were kept": Case(
        TopKKind(k=9, values="float16"),
        (TopKDivergenceConfig(k=4), TopKDivergenceConfig(k=9, divergence="reverse_kl")),
        6e-4,
    ),
    "top_k in a byte": Case(
        TopKKind(k=9, temperature=1.5), (TopKDivergenceConfig(k=9, temperature=1.5, tail="renormalise"),), 2.5e-2
    ),
    "all ids are kept": Case(
        TopKKind(k=VOCABULARY, values="float16"), (TopKDivergenceConfig(k=VOCABULARY, tail="drop_tail"),), 6e-4
    ),
    "hidden states": Case(HiddenStatesKind(layers=(2, 3), store="exact"), (HIDDEN,), 1e-6),
    "hidden states of all positions": Case(
        HiddenStatesKind(layers=(0, 2, 3), positions="all", store="exact"), (HIDDEN, HIDDEN_ALL), 1e-6
    ),
    "hidden states in bfloat16": Case(HiddenStatesKind(layers=(2, 3)), (HIDDEN,), 3e-3),
    "hidden states in a byte": Case(HiddenStatesKind(layers=(2, 3), store="int8"), (HIDDEN,), 1e-2),
    "attention inputs": Case(AttentionInputsKind(blocks=(1, 2, 3), store="exact"), (RELATIONS, RELATIONS_ALL), 1e-5),
    "attention inputs in bfloat16": Case(AttentionInputsKind(blocks=(1, 3)), (RELATIONS,), 2e-3),
    "attention inputs in a byte": Case(AttentionInputsKind(blocks=(1, 3), store="int8"), (RELATIONS,), 5e-3),
}

# how a student may meet the rows, in microbatches; places in ROWS
ORDER = np.random.default_rng(3).permutation(len(ROWS)).tolist()
BATCHES: dict[str, tuple[Collator, list[list[int]]]] = {
    "right": (Collator(PAD), [list(range(13))]),
    "left": (Collator(PAD, "left"), [list(range(13))]),
    "packed": (Collator(PAD, "right", PACKED_TOKENS), [list(range(13))]),
    "packed left, several": (Collator(PAD, "left", PACKED_TOKENS), [ORDER[:7], ORDER[7:]]),
    "shuffled, several": (Collator(PAD), [ORDER[:4], ORDER[4:5], ORDER[5:]]),
    "some, one of them twice": (Collator(PAD, "left"), [[8, 3, 11, 3]]),
}


def batches_of(name: str) -> list[TokenBatch]:
    collator, groups = BATCHES[name]
    return [collator([IndexedRow(place, ROWS[place]) for place in places]) for places in groups]


def objective_of(terms: Sequence[TermConfig], source: SignalSource) -> Objective:
    return build_objective(
        terms, shared_width=VOCABULARY, student=model_shape(tiny_llama(0)), teacher=source.identity.shape
    )


def learned(objective: Objective, source: SignalSource, batches: Sequence[TokenBatch]) -> tuple[Tensor, Tensor]:
    """The sum of each term, and the gradient with respect to all of the student's weights."""
    student = tiny_llama(0)
    sums = dict.fromkeys(objective.names, 0.0)
    for batch in batches:
        signal = source.signal(batch, objective.request)
        factors = dict.fromkeys(objective.names, 1.0)
        measured = measure(student, batch, objective, signal, factors=factors, device=CPU)
        torch.stack(list(measured.losses.values())).sum().backward()
        for name, total in measured.sums.items():
            sums[name] += float(total)
    gradient = torch.cat([p.grad.reshape(-1) for p in student.parameters() if p.grad is not None])
    return torch.tensor(list(sums.values())), gradient


def assert_near(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert float((found - expected).norm()) <= tolerance * float(expected.norm())


@pytest.fixture(scope="module")
def live() -> LocalTeacher:
    return peaked_teacher()


def test_every_kind_has_a_case() -> None:
    # answers are rows of their own, not a signal on given ones; draws have a test of their own
    assert {case.kind.kind for case in CASES.values()} == set(get_args(Kind)) - {"text", "sampled"}


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_are_those_of_the_teacher(name: str, live: LocalTeacher, tmp_path: Path) -> None:
    case = CASES[name]
    stored = cached(build(tmp_path, live, ROWS, [case.kind]))
    objective = objective_of(case.terms, live)
    stored.require(objective.request, packing=True)
    for layout in BATCHES:
        batches = batches_of(layout)
        expected, found = learned(objective, live, batches), learned(objective, stored, batches)
        assert_near(found[0], expected[0], case.tolerance)
        assert_near(found[1], expected[1], case.tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_exact_states_are_equal_bit_by_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    """Read in the batches in which they were recorded: then even the teacher's last digits are the same."""
    live = peaked_teacher(dtype)
    kinds = [
        FullKind(),
        HiddenStatesKind(layers=(0, 1, 2, 3), store="exact", positions="all"),
        AttentionInputsKind(blocks=(1, 2, 3), store="exact"),
    ]
    stored = cached(build(tmp_path, live, ROWS, kinds, batch_size=13, rows_per_shard=13))
    terms = (TokenDivergenceConfig(), HIDDEN, HIDDEN_ALL, RELATIONS, RELATIONS_ALL)
    objective = objective_of(terms, live)
    places = sorted(range(13), key=lambda place: (len(ROWS[place]), place))
    batch = Collator(PAD)([IndexedRow(place, ROWS[place]) for place in places])
    expected, found = learned(objective, live, [batch]), learned(objective, stored, [batch])
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


def naive_draws(
    live: LocalTeacher, row: EncodedRow, draws: int, temperature: float, seed: int
) -> tuple[Tensor, Tensor]:
    """By adding up probabilities one after another until the uniform number is passed."""
    ids = torch.from_numpy(row.input_ids).long()[None]
    with torch.no_grad():
        logits = live.model(input_ids=ids).logits[0].double() / temperature
    digest = row_digest(row.input_ids, row.answer_mask)
    scored = [place - 1 for place in range(len(row)) if row.answer_mask[place]]
    points = row_points(digest, len(scored), draws, seed=seed)
    found, nats = [], []
    for position, at in zip(points.tolist(), scored, strict=True):
        prob = torch.softmax(logits[at], dim=-1).tolist()
        drawn = []
        for point in position:
            reached, token = 0.0, 0
            for token, mass in enumerate(prob):  # noqa: B007
                reached += mass
                if reached > point:
                    break
            drawn.append(token)
        found.append(drawn)
        nats.append(-sum(np.log(prob[token]) for token in drawn) / draws)
    return torch.tensor(found), torch.tensor(nats)


def test_draws_are_those_of_the_row_and_the_seed(live: LocalTeacher, tmp_path: Path) -> None:
    stored = cached(build(tmp_path, live, ROWS, [SampledKind(draws=20, temperature=1.5)], seed=7))
    need = Draws(20, VOCABULARY, 1.5)
    for layout in BATCHES:
        for batch in batches_of(layout):
            scores = stored.signal(batch, SignalRequest(frozenset({need}))).scores
            assert scores is not None
            drawn = scores.chunk(EVERYTHING, CPU).drawn(20, VOCABULARY, 1.5)
            places = torch.unique_consecutive(batch["rows"][batch["attention_mask"].bool()]).tolist()
            expected = [naive_draws(live, ROWS[place], 20, 1.5, 7) for place in places]
            assert torch.equal(drawn.ids, torch.cat([ids.sort(dim=1).values for ids, _ in expected]))
            nats = torch.cat([nats for _, nats in expected]).float()
            torch.testing.assert_close(drawn.entropy_estimate, nats, rtol=1e-3, atol=0)


def test_loss_of_draws_is_the_same_however_the_rows_stand(live: LocalTeacher, tmp_path: Path) -> None:
    stored = cached(build(tmp_path, live, ROWS, [SampledKind(draws=20)]))
    objective = objective_of((SampledDivergenceConfig(samples=20), CrossEntropyConfig()), stored)
    expected = learned(objective, stored, batches_of("right"))
    for layout in list(BATCHES)[1:-1]:
        found = learned(objective, stored, batches_of(layout))
        assert_near(found[0], expected[0], 2e-5)
        assert_near(found[1], expected[1], 2e-5)


def test_forms_that_are_stored_are_read_before_the_whole_distribution(live: LocalTeacher, tmp_path: Path) -> None:
    stored = cached(build(tmp_path, live, ROWS, [FullKind(), SampledKind(draws=20)]))
    (batch,) = batches_of("right")
    few = stored.signal(batch, SignalRequest(frozenset({Draws(20, VOCABULARY)}))).scores
    again = stored.signal(batch, SignalRequest(frozenset({Draws(21, VOCABULARY)}))).scores
    assert few is not None and again is not None
    first, second = (few.chunk(EVERYTHING, CPU).drawn(20, VOCABULARY, 1.0).ids for _ in range(2))
    assert torch.equal(first, second)
    first, second = (again.chunk(EVERYTHING, CPU).drawn(21, VOCABULARY, 1.0).ids for _ in range(2))
    assert not torch.equal(first, second)  # drawn anew from the whole distribution


def test_it_can_be_pickled_before_and_after_use(live: LocalTeacher, tmp_path: Path) -> None:
    stored = cached(build(tmp_path, live, ROWS, [FullKind()]))
    objective = objective_of((TokenDivergenceConfig(),), stored)
    batches = batches_of("shuffled, several")
    unused = pickle.dumps(stored)
    expected = learned(objective, stored, batches)
    used = pickle.dumps(stored)
    assert len(used) < len(unused) + 2_000  # neither the head, which has 6,144 bytes, nor rows
    for copy in (pickle.loads(unused), pickle.loads(used)):  # noqa: S301
        assert torch.equal(learned(objective, copy, batches)[1], expected[1])

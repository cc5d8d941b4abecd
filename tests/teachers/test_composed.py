"""Sources composed of others: each row by its own teacher, and a weighted mixture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distillab.config.layer_terms import AttentionRelationsConfig, HiddenStatesConfig
from distillab.config.terms import (
    CrossEntropyConfig,
    SampledDivergenceConfig,
    TermConfig,
    TokenDivergenceConfig,
    TopKDivergenceConfig,
)
from distillab.data.collation import Collator, TokenDataset
from distillab.data.encoding import EncodedSplit
from distillab.errors import TeacherError
from distillab.models.activations import ActivationSpec
from distillab.models.structure import model_shape
from distillab.objectives import build_objective
from distillab.objectives.step import measure
from distillab.teachers import LocalTeacher, SignalSource
from distillab.teachers.mixed import MixedTeacher, mixed_logp
from distillab.teachers.protocol import NO_LAYERS, tokens_read
from distillab.teachers.routed import RoutedTeacher
from distillab.teachers.routes import Routes
from distillab.teachers.signals import Distribution, SignalRequest
from tests.training.conftest import VOCABULARY, Train, ragged_split, teacher, tiny_llama, train  # noqa: F401

CPU = torch.device("cpu")
SPLIT = ragged_split(12)
NAMES = ["math", "chat", "chat", "math", "code", "chat"] * 2
COLLATORS = [Collator(0), Collator(0, "left"), Collator(0, capacity=64)]


def teachers(layers: Sequence[int] = (3, 3, 3)) -> dict[str, LocalTeacher]:
    names = dict.fromkeys(NAMES)
    return {name: teacher(tiny_llama(50 + n, layers=layers[n])) for n, name in enumerate(names)}


def routed(parts: dict[str, LocalTeacher], split: EncodedSplit = SPLIT) -> RoutedTeacher:
    routes: Routes[str] = Routes()
    routes.add(split.rows, NAMES)
    return RoutedTeacher(parts, routes, Collator(0))


def gradient(source: SignalSource, rows: Sequence[int], terms: Sequence[TermConfig], collator: Collator) -> Tensor:
    """The gradient of the terms' sums over some rows, at the student's parameters."""
    student = tiny_llama(0)
    shapes = {"student": model_shape(student), "teacher": source.identity.shape}
    objective = build_objective(terms, shared_width=VOCABULARY, **shapes)
    data = TokenDataset(SPLIT)
    batch = collator([data[index] for index in rows])
    factors = dict.fromkeys(objective.names, 1.0)
    signal = source.signal(batch, objective.request)
    measured = measure(student, batch, objective, signal, factors=factors, device=CPU)
    torch.stack(list(measured.losses.values())).sum().backward()
    return torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])


TERMS: list[tuple[TermConfig, ...]] = [
    (CrossEntropyConfig(), TokenDivergenceConfig(temperature=2.0)),
    (TopKDivergenceConfig(k=5),),
    (HiddenStatesConfig(positions="all", loss="mse", layers=((1, 2),)),),
    (AttentionRelationsConfig(layers=((2, 3),)),),
]


@pytest.mark.parametrize("collator", COLLATORS, ids=["right", "left", "packed"])
@pytest.mark.parametrize("terms", TERMS, ids=lambda terms: terms[-1].kind)
def test_a_batch_of_several_teachers_has_the_gradients_of_separate_batches_added(
    terms: Sequence[TermConfig], collator: Collator
) -> None:
    parts = teachers()
    rows = [0, 1, 2, 4, 9, 5, 7]
    together = gradient(routed(parts), rows, terms, collator)
    alone = [gradient(parts[NAMES[row]], [row], terms, Collator(0)) for row in rows]
    torch.testing.assert_close(together, torch.stack(alone).sum(0), rtol=1e-4, atol=1e-5)
    other = gradient(parts["math"], rows, terms, collator)
    assert not torch.allclose(together, other, rtol=1e-2, atol=1e-3)


def test_draws_are_of_each_positions_own_teacher() -> None:
    parts = teachers()
    with torch.no_grad():
        for number, part in enumerate(parts.values()):  # each teacher is sure of another token
            part.model.lm_head.weight.zero_()
            part.model.lm_head.weight[number + 3] = 100 * part.model.model.norm.weight.sign()
    batch = Collator(0)([TokenDataset(SPLIT)[index] for index in (0, 1, 4)])
    found = routed(parts).signal(batch, SignalRequest(frozenset({Distribution(VOCABULARY)}))).scores
    assert found is not None
    positions = [int(SPLIT.rows[index].answer_mask.sum()) for index in (0, 1, 4)]
    tokens = found.chunk(slice(0, sum(positions)), CPU)
    wanted = torch.cat(
        [
            parts[NAMES[i]]
            .signal(Collator(0)([TokenDataset(SPLIT)[i]]), _ALL)
            .scores.chunk(  # type: ignore[union-attr]
                slice(0, 99), CPU
            )
            .logp(VOCABULARY, 1.0)
            for i in (0, 1, 4)
        ]
    )
    torch.testing.assert_close(tokens.logp(VOCABULARY, 1.0), wanted)
    targets = torch.arange(sum(positions)) % VOCABULARY
    torch.testing.assert_close(tokens.actual(targets, VOCABULARY, 1.0), wanted.gather(1, targets[:, None])[:, 0])
    drawn = tokens.drawn(4, VOCABULARY, 1.0)
    torch.testing.assert_close(drawn.entropy_estimate, -wanted.gather(1, drawn.ids).mean(1))
    part = tokens.rows(slice(positions[0] - 1, positions[0] + positions[1] + 1))
    torch.testing.assert_close(part.logp(VOCABULARY, 1.0), wanted[positions[0] - 1 : sum(positions[:2]) + 1])


_ALL = SignalRequest(frozenset({Distribution(VOCABULARY)}))


def test_a_row_with_equal_tokens_is_routed_by_its_place_and_a_new_answer_by_its_prompt() -> None:
    rows = [SPLIT.rows[0], SPLIT.rows[0]]
    routes: Routes[str] = Routes()
    routes.add(rows, ["math", "chat"])
    parts = teachers()
    source = RoutedTeacher(parts, routes, Collator(0))
    split = EncodedSplit(rows, SPLIT.examples[:2], SPLIT.counts)
    batch = Collator(0)([TokenDataset(split)[index] for index in (1, 0)])
    shares = source._shares(_samples(batch))
    assert {name: [sample.row for sample in own] for name, own in shares.items()} == {"chat": [1], "math": [0]}
    (sample, _) = _samples(batch)
    start = int(np.flatnonzero(sample.answer_mask)[0])
    sample.input_ids[start] += 1
    assert list(source._shares([sample])) == ["chat"]  # of two rows with this prompt the one at its place
    sample.input_ids[0] += 1
    with pytest.raises(TeacherError, match="none of the run's rows"):
        source._shares([sample])


def test_a_row_that_has_moved_is_routed_by_its_tokens_before_its_prompt() -> None:
    row = SPLIT.rows[0]
    ids = row.input_ids.copy()
    ids[int(np.flatnonzero(row.answer_mask)[0])] += 1
    other = replace(row, input_ids=ids)
    routes: Routes[str] = Routes()
    routes.add([row, other], ["math", "chat"])
    split = EncodedSplit([row, other], SPLIT.examples[:2], SPLIT.counts)
    (_, sample) = _samples(Collator(0)([TokenDataset(split)[index] for index in (0, 1)]))
    moved = replace(sample, row=7)
    assert list(RoutedTeacher(teachers(), routes, Collator(0))._shares([moved])) == ["chat"]


def _samples(batch: Any) -> list[Any]:
    from distillab.teachers.stored.rows import samples

    return samples(batch)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_mixture_is_the_sum_of_the_probabilities(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = [30 * torch.randn(7, 11, generator=generator, dtype=torch.float64) for _ in range(3)]
    logits[0][:, 4] = -torch.inf
    weights = [0.2, 0.5, 0.3]
    wanted = torch.zeros(7, 11, dtype=torch.float64)
    for weight, each in zip(weights, logits, strict=True):
        for row in range(7):
            for token in range(11):
                wanted[row, token] += weight * (each[row, token] - each[row].logsumexp(0)).exp()
    found = mixed_logp([each.log_softmax(-1).to(dtype) for each in logits], weights)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-5
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), wanted.log(), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(7, dtype=dtype))


def test_a_token_that_one_teacher_rules_out_keeps_the_others_share() -> None:
    certain = torch.tensor([[0.0, -torch.inf, -torch.inf]])
    even = torch.tensor([[0.5, 0.5, 0.0]]).log()
    assert mixed_logp([certain, even], [0.7, 0.3]).exp()[0].tolist() == pytest.approx([0.85, 0.15, 0.0])


def test_a_mixed_teacher_trains_as_its_distribution() -> None:
    parts = {name: part for name, part in teachers((3, 2, 1)).items() if name != "code"}
    mixed = MixedTeacher(parts, {"math": 0.25, "chat": 0.75})
    batch = Collator(0)([TokenDataset(SPLIT)[index] for index in (3, 1)])
    scores = mixed.signal(batch, _ALL).scores
    assert scores is not None
    total = int(batch["answer_mask"].sum())
    tokens = scores.chunk(slice(0, total), CPU)
    each = [
        part.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        for part in parts.values()
    ]
    prob = [logits[:, :-1][batch["answer_mask"][:, 1:]].double().softmax(-1) for logits in each]
    wanted = 0.25 * prob[0] + 0.75 * prob[1]
    torch.testing.assert_close(tokens.logp(VOCABULARY, 1.0).double().exp(), wanted, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        tokens.top(3, VOCABULARY, 1.0).logp.double().exp(), wanted.topk(3).values, rtol=1e-4, atol=1e-6
    )
    softened = wanted.sqrt() / wanted.sqrt().sum(-1, keepdim=True)
    torch.testing.assert_close(tokens.logp(VOCABULARY, 2.0).double().exp(), softened, rtol=1e-4, atol=1e-6)
    terms = (SampledDivergenceConfig(samples=3), TopKDivergenceConfig(k=4))
    assert gradient(mixed, [3, 1], terms, Collator(0)).isfinite().all()
    assert tokens_read(mixed, batch) == 2 * int(batch["attention_mask"].sum())


def test_the_identity_covers_parts_and_weights() -> None:
    parts = teachers((3, 2, 1))
    whole = routed(parts).identity
    assert whole.provenance.name == "math: t, chat: t, code: t" and whole.shape == NO_LAYERS
    assert routed(teachers()).identity.shape == model_shape(tiny_llama(0, layers=3))
    two = {name: parts[name] for name in ("math", "chat")}
    hashes = {
        source.identity.provenance.weights_sha256
        for source in (
            MixedTeacher(two, {"math": 0.5, "chat": 0.5}),
            MixedTeacher(two, {"math": 0.4, "chat": 0.6}),
            RoutedTeacher(two, Routes(), Collator(0)),
            RoutedTeacher(parts, Routes(), Collator(0)),
        )
    }
    assert len(hashes) == 4
    mixed = MixedTeacher(two, {"math": 0.4, "chat": 0.6}).identity
    assert (mixed.provenance.name, mixed.access, mixed.head) == ("0.4 t + 0.6 t", "logits", None)


def test_what_a_composition_cannot_give_is_refused() -> None:
    parts = teachers()
    maps = SignalRequest(activations=ActivationSpec(maps=frozenset({1})))
    with pytest.raises(TeacherError, match="Attention maps are read of one teacher"):
        routed(parts).require(maps, packing=False)
    inside = SignalRequest(activations=ActivationSpec(hidden=frozenset({1})))
    with pytest.raises(TeacherError, match="no hidden states or attention"):
        MixedTeacher(parts, dict.fromkeys(parts, 1 / 3)).require(inside, packing=False)


@pytest.mark.parametrize("mixed", [False, True])
def test_a_killed_run_resumes_to_the_same_weights(train: Train, tmp_path: Path, mixed: bool) -> None:  # noqa: F811
    parts = teachers()
    source = MixedTeacher(parts, dict.fromkeys(parts, 1 / 3)) if mixed else routed(parts)
    settings = {
        "source": source,
        "split": SPLIT,
        "steps": 6,
        "checkpoint_every": 2,
        "microbatch_size": 3,
        "batch_size": 6,
    }
    straight, reports = train(folder=tmp_path / "straight", **settings)
    with pytest.raises(KeyboardInterrupt):
        train(folder=tmp_path / "killed", stop_after=3, **settings)
    resumed, rest = train(folder=tmp_path / "killed", resume=str(tmp_path / "killed" / "checkpoint-2"), **settings)
    assert [report.loss for report in rest] == [report.loss for report in reports[2:]]
    pairs = zip(resumed.parameters(), straight.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert reports[0].teacher_tokens == (3 if mixed else 1) * reports[0].tokens

"""Weights of terms: constant, on a line, balanced; what is measured and what is logged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from distillab.config.layer_terms import AttentionRelationsConfig, HiddenStatesConfig
from distillab.config.run import RunRecipe
from distillab.config.term_base import LinearWeight, Weight
from distillab.config.terms import CrossEntropyConfig, TermConfig, TokenDivergenceConfig
from distillab.data.collation import Collator, IndexedRow
from distillab.errors import ConfigError
from distillab.models.structure import decoder_blocks, model_shape
from distillab.objectives import Objective, build_objective
from distillab.training.weighting import Weighting, gradient_cosines, shared_parameters
from tests.training.conftest import VOCABULARY, Train, ragged_split, teacher, tiny_llama

WHITE_BOX: tuple[TermConfig, ...] = (
    CrossEntropyConfig(weight=0.5),
    TokenDivergenceConfig(weight=0.5),
    HiddenStatesConfig(weight="balanced"),
    AttentionRelationsConfig(weight=LinearWeight(start=2.0, end=0.0)),
)


def _objective(*terms: TermConfig) -> Objective:
    return build_objective(
        terms, shared_width=VOCABULARY, student=model_shape(tiny_llama(0)), teacher=model_shape(teacher().model)
    )


def test_a_line_goes_from_its_start_at_the_first_step_to_its_end_at_the_last() -> None:
    weighting = Weighting(_objective(*WHITE_BOX), steps=5, every=None)
    line = [weighting.weights(step)["attention_relations"] for step in range(1, 6)]
    assert line == pytest.approx([2.0, 1.5, 1.0, 0.5, 0.0])
    assert weighting.weights(3)["cross_entropy"] == 0.5


def test_one_step_has_the_line_s_start() -> None:
    assert Weighting(_objective(*WHITE_BOX), steps=1, every=None).weights(1)["attention_relations"] == 2.0


@pytest.mark.parametrize(("steps", "every", "expected"), [(1000, None, 50), (100, None, 10), (5, None, 1), (9, 4, 4)])
def test_gradients_are_measured_at_the_first_step_and_at_the_stated_interval(
    steps: int, every: int | None, expected: int
) -> None:
    weighting = Weighting(_objective(*WHITE_BOX), steps=steps, every=every)
    assert [step for step in range(1, steps + 1) if weighting.due(step)] == list(range(1, steps + 1, expected))


def test_a_single_term_has_nothing_to_share() -> None:
    assert not Weighting(_objective(CrossEntropyConfig()), steps=100, every=1).due(1)


def test_shares_and_the_balanced_weight_equal_those_of_dense_gradients(train: Train) -> None:
    """Each loss by itself from full logits and hidden states, its gradient at the last block's parameters."""
    split, student, source = ragged_split(4), tiny_llama(0), teacher()
    batch = Collator(0)([IndexedRow(index, row) for index, row in enumerate(split.rows)])
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids")}
    mask = batch["answer_mask"][:, 1:]
    count = int(mask.sum())
    own = student(**inputs).logits[:, :-1][mask]
    with torch.no_grad():
        other = source.model(**inputs).logits[:, :-1][mask]
    losses = [
        functional.cross_entropy(own, batch["input_ids"][:, 1:][mask], reduction="sum") / count,
        functional.kl_div(own.log_softmax(-1), other.softmax(-1), reduction="sum") / count,
    ]
    parameters = list(student.model.layers[-1].parameters())
    ce, kl = (
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, retain_graph=True)]) for loss in losses
    )
    balanced = float((0.5 * ce).norm() / kl.norm())

    terms = (CrossEntropyConfig(weight=0.5), TokenDivergenceConfig(weight="balanced"))
    _, (report,) = train(terms=terms, split=split, student=tiny_llama(0), batch_size=4)
    assert report.weights == pytest.approx({"cross_entropy": 0.5, "token_divergence": balanced}, rel=1e-4)
    assert report.gradient_shares == pytest.approx({"cross_entropy": 0.5, "token_divergence": 0.5}, rel=1e-4)
    assert report.loss == pytest.approx(0.5 * losses[0].item() + balanced * losses[1].item(), rel=1e-4)
    cosine = float(ce.double() @ kl.double() / (ce.double().norm() * kl.double().norm()))
    assert report.gradient_cosines == pytest.approx({"cross_entropy ~ token_divergence": cosine}, rel=1e-4)


def test_a_gradient_of_zero_has_no_direction() -> None:
    one, two = torch.tensor([3.0, 4.0]), torch.tensor([-8.0, 6.0])
    found = gradient_cosines({"a": one, "b": two, "c": torch.zeros(2), "d": -one})
    assert found == pytest.approx({"a ~ b": 0.0, "a ~ d": -1.0, "b ~ d": 0.0}, abs=1e-6)


def test_measuring_does_not_change_the_step(train: Train, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"method": "logits", "steps": 3}
    often, a = train(**settings, gradient_shares_every=1, folder=tmp_path / "often")
    once, b = train(**settings, gradient_shares_every=100, folder=tmp_path / "once")
    assert [r.gradient_shares is not None for r in a] == [True, True, True]
    assert [r.gradient_shares is not None for r in b] == [True, False, False]
    for ours, theirs in zip(often.parameters(), once.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_the_gradient_is_looked_at_where_all_terms_reach() -> None:
    student = tiny_llama(0)
    blocks = decoder_blocks(student)
    top = shared_parameters(_objective(*WHITE_BOX), student)
    assert [id(p) for p in top] == [id(p) for p in blocks[1].parameters()]
    lower = shared_parameters(_objective(CrossEntropyConfig(), HiddenStatesConfig(layers=((1, 2),))), student)
    assert [id(p) for p in lower] == [id(p) for p in blocks[0].parameters()]
    words = shared_parameters(_objective(CrossEntropyConfig(), HiddenStatesConfig(layers="embeddings")), student)
    assert [id(p) for p in words] == [id(student.get_input_embeddings().weight)]


def test_a_frozen_block_is_refused() -> None:
    student = tiny_llama(0)
    student.model.layers.requires_grad_(False)
    with pytest.raises(ConfigError, match="none of its parameters learns"):
        shared_parameters(_objective(*WHITE_BOX), student)


def test_a_resumed_run_goes_on_with_its_balanced_weights(train: Train, tmp_path: Path) -> None:
    terms = (CrossEntropyConfig(), TokenDivergenceConfig(weight="balanced"), HiddenStatesConfig(projector="linear"))
    settings: dict[str, Any] = {
        "terms": terms,
        "method": "white_box",
        "steps": 8,
        "batch_size": 4,
        "checkpoint_every": 2,
        "gradient_shares_every": 3,
        "split": ragged_split(10),
    }
    straight, reports = train(folder=tmp_path / "straight", **settings)
    with pytest.raises(KeyboardInterrupt):
        train(folder=tmp_path / "killed", stop_after=5, **settings)
    resumed, rest = train(folder=tmp_path / "killed", resume=str(tmp_path / "killed" / "checkpoint-4"), **settings)
    assert [r.loss for r in rest] == [r.loss for r in reports[4:]]
    assert [r.weights for r in rest] == [r.weights for r in reports[4:]]
    for ours, theirs in zip(resumed.parameters(), straight.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_line_of_balanced_weights_is_the_line_times_the_balanced_weight(train: Train) -> None:
    def terms(weight: Weight) -> tuple[TermConfig, ...]:
        return CrossEntropyConfig(weight=0.5), TokenDivergenceConfig(weight=weight)

    settings: dict[str, Any] = {"split": ragged_split(4), "batch_size": 4, "steps": 1}
    _, (whole,) = train(terms=terms("balanced"), **settings)
    _, (part,) = train(terms=terms(LinearWeight(start=0.2, end=0.0, balanced=True)), **settings)
    assert part.weights["token_divergence"] == pytest.approx(0.2 * whole.weights["token_divergence"], rel=1e-5)
    assert part.gradient_shares == pytest.approx({"cross_entropy": 1 / 1.2, "token_divergence": 0.2 / 1.2}, rel=1e-4)


def test_gradients_are_never_measured_where_that_is_asked_for(tiny_world: dict[str, Any], train: Train) -> None:
    _, reports = train(method="logits", steps=2, gradient_shares_every=0)
    assert [report.gradient_shares for report in reports] == [None, None]
    values = {key: value for key, value in tiny_world.items() if key != "seeds"}
    training = {**values.pop("training"), "gradient_shares_every": 0}
    with pytest.raises(ValueError, match="needs gradient_shares_every"):
        RunRecipe(**values, method="attention", training=training)


@pytest.mark.parametrize("weight", ["balanced", {"start": 1, "end": 0, "balanced": True}])
def test_a_sum_of_balanced_terms_alone_is_refused(tiny_world: dict[str, Any], weight: Any) -> None:
    values = {key: value for key, value in tiny_world.items() if key != "seeds"}
    with pytest.raises(ValueError, match="at least one term"):
        RunRecipe(**values, method="logits", terms=[{"kind": "token_divergence", "weight": weight}])


def test_a_term_is_measured_by_its_own_count(train: Train) -> None:
    """Hidden states at all positions have more units than cross-entropy has scored tokens."""
    split, student, source = ragged_split(4), tiny_llama(0), teacher()
    batch = Collator(0)([IndexedRow(index, row) for index, row in enumerate(split.rows)])
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids")}
    tokens, scored = batch["attention_mask"].bool(), batch["answer_mask"][:, 1:]
    output = student(**inputs, output_hidden_states=True)
    ours = output.hidden_states[-1][tokens]
    with torch.no_grad():
        theirs = source.model(**inputs, output_hidden_states=True).hidden_states[-1][tokens]
    hidden = 2 * (1 - functional.cosine_similarity(ours, theirs, dim=-1)).mean()  # mse without a projector
    ce = functional.cross_entropy(output.logits[:, :-1][scored], batch["input_ids"][:, 1:][scored])
    parameters = list(student.model.layers[-1].parameters())
    sizes = [
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, retain_graph=True)]).norm()
        for loss in (ce, hidden)
    ]
    terms = (CrossEntropyConfig(), HiddenStatesConfig(positions="all", weight="balanced"))
    _, (report,) = train(terms=terms, method="white_box", split=split, student=tiny_llama(0), batch_size=4)
    assert report.terms["hidden_states"][1] == int(tokens.sum()) > report.terms["cross_entropy"][1]
    assert report.weights["hidden_states"] == pytest.approx(float(sizes[0] / sizes[1]), rel=1e-3)

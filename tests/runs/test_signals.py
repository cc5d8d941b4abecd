"""What a recipe's terms read of the teacher, as kinds of cache."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter

from distillab.config.cache import AttentionInputsKind, FullKind, HiddenStatesKind, TopKKind
from distillab.config.methods import METHODS
from distillab.config.run import RunRecipe
from distillab.config.terms import TermConfig
from distillab.errors import ConfigError
from distillab.models.structure import ModelShape
from distillab.runs.signals import request_needed
from distillab.teachers.stored.kinds import kinds_for

STUDENT = ModelShape(blocks=2, width=32, heads=2, key_value_heads=2, head_width=16)
TEACHER = ModelShape(blocks=6, width=64, heads=4, key_value_heads=4, head_width=16)


def kinds(*terms: dict[str, Any]) -> tuple[Any, ...]:
    read = TypeAdapter(tuple[TermConfig, ...]).validate_python(terms)
    return kinds_for(request_needed(read, width=100, student=STUDENT, teacher=TEACHER))


def test_cross_entropy_reads_nothing() -> None:
    assert kinds({"kind": "cross_entropy"}) == ()


def test_a_divergence_over_all_tokens_needs_all_of_the_distribution() -> None:
    assert kinds({"kind": "token_divergence", "temperature": 2.0}) == (FullKind(store="exact"),)


def test_top_k_alone_needs_the_largest_k_that_any_term_reads() -> None:
    terms = [{"kind": "top_k_divergence", "k": k, "temperature": 2.0} for k in (4, 16, 8)]
    assert kinds(*terms) == (TopKKind(k=16, temperature=2.0, values="float16"),)


@pytest.mark.parametrize(
    "other",
    [
        {"kind": "token_divergence"},
        {"kind": "sampled_divergence"},
        {"kind": "top_k_divergence", "k": 4, "temperature": 3.0},
    ],
)
def test_where_all_is_needed_anyway_it_serves_top_k_too(other: dict[str, Any]) -> None:
    """One kind top_k has one temperature; draws are new ones at every step."""
    assert kinds({"kind": "top_k_divergence", "k": 8}, other) == (FullKind(store="exact"),)


def test_layers_are_those_that_the_terms_map() -> None:
    found = kinds({"kind": "hidden_states", "layers": "uniform"}, {"kind": "hidden_states", "layers": [[1, 5]]})
    assert found == (HiddenStatesKind(layers=(3, 5, 6), positions="answer", store="exact"),)


def test_positions_are_all_if_any_term_reads_all() -> None:
    found = kinds({"kind": "hidden_states"}, {"kind": "hidden_states", "layers": "embeddings", "positions": "all"})
    assert found == (HiddenStatesKind(layers=(0, 6), positions="all", store="exact"),)


def test_attention_relations_need_blocks_and_leave_hidden_states_alone() -> None:
    found = kinds({"kind": "hidden_states"}, {"kind": "attention_relations", "positions": "all"})
    assert found == (
        HiddenStatesKind(layers=(6,), positions="answer", store="exact"),
        AttentionInputsKind(blocks=(6,), store="exact"),
    )


def test_the_widest_preset_needs_three_kinds() -> None:
    found = kinds_for(request_needed(METHODS["white_box"].terms, width=100, student=STUDENT, teacher=TEACHER))
    assert [kind.kind for kind in found] == ["full", "hidden_states", "attention_inputs"]


def test_a_layer_that_the_teacher_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="layer that the model does not have"):
        kinds({"kind": "hidden_states", "layers": [[1, 7]]})


@pytest.mark.parametrize(
    ("method", "terms", "reads", "cacheable"),
    [
        ("sft", None, False, True),
        ("seqkd", None, False, True),
        ("logits", None, True, True),
        ("logits", [{"kind": "attention_maps"}], True, False),
    ],
)
def test_what_reads_and_what_can_be_stored(method: str, terms: Any, reads: bool, cacheable: bool) -> None:
    recipe = RunRecipe(
        student={"path": "s"}, teacher={"path": "t"}, data={"train": {"path": "d"}}, method=method, terms=terms
    )
    found = recipe.resolved()
    assert (found.reads_signals, found.can_be_cached) == (reads, cacheable)

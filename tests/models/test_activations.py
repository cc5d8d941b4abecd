"""Activations hidden states are those that transformers itself would give, and nothing of the capture stays behind."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from distillab.errors import ConfigError
from distillab.models.activations import ActivationSpec, record_activations
from distillab.models.structure import decoder_blocks
from tests.models.decoders import KINDS, VOCABULARY, tiny_model

each_kind = pytest.mark.parametrize("kind", KINDS)
REAL = ["llama2xs-tok512", "bitllama-3M-tok512", "smallmistral-stories"]


def _inputs(seed: int = 0, *, vocabulary: int = VOCABULARY) -> dict[str, Any]:
    """Two sequences, the second one padded on the left."""
    ids = torch.randint(3, vocabulary, (2, 7), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    return {"input_ids": ids, "attention_mask": mask, "use_cache": False}


def _all(model: PreTrainedModel) -> ActivationSpec:
    return ActivationSpec(hidden=frozenset(range(len(decoder_blocks(model)) + 1)))


def _hooks(model: torch.nn.Module) -> Counter[str]:
    return Counter(
        f"{name}.{kind}"
        for name, module in model.named_modules()
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        for _ in getattr(module, kind)
    )


@torch.no_grad()
def _check_against_transformers(model: PreTrainedModel, inputs: dict[str, Any]) -> None:
    expected = model(**inputs, output_hidden_states=True).hidden_states
    with record_activations(model, _all(model)) as found:
        model(**inputs)
    assert sorted(found.hidden) == list(range(len(expected)))
    for index, states in enumerate(expected):
        assert torch.equal(found.hidden[index], states), index


@each_kind
def test_index_i_is_what_transformers_calls_hidden_states_i(kind: str) -> None:
    _check_against_transformers(tiny_model(kind), _inputs())


@pytest.mark.parametrize("name", REAL)
def test_real_models_too(name: str, materials: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(materials / "models" / name)
    _check_against_transformers(model.eval(), _inputs(vocabulary=model.config.vocab_size))


@each_kind
def test_the_last_state_is_what_the_head_reads(kind: str) -> None:
    model = tiny_model(kind)
    read: list[Tensor] = []
    handle = model.get_output_embeddings().register_forward_pre_hook(lambda module, args: read.append(args[0]))
    with torch.no_grad(), record_activations(model, ActivationSpec(hidden=frozenset({3}))) as found:
        model(**_inputs())
    handle.remove()
    assert torch.equal(found.hidden[3], read[0])


def test_the_last_state_needs_no_head() -> None:
    """A pass that stops before the head, or that gives it some positions only, is captured in full."""
    model = tiny_model("llama")
    inner = ActivationSpec(hidden=frozenset({3}))
    with torch.no_grad():
        with record_activations(model, inner) as from_body:
            model.model(**_inputs())
        with record_activations(model, inner) as from_some:
            model(**_inputs(), logits_to_keep=1)
    assert from_body.hidden[3].shape == (2, 7, 16)
    assert torch.equal(from_body.hidden[3], from_some.hidden[3])


def test_only_the_wanted_layers_are_kept_alive() -> None:
    model = tiny_model("llama")
    alive: dict[int, weakref.ref[Tensor]] = {}
    watchers = [
        block.register_forward_hook(lambda module, args, output, n=number: alive.update({n: weakref.ref(output)}))
        for number, block in enumerate(decoder_blocks(model), start=1)
    ]
    with torch.no_grad(), record_activations(model, ActivationSpec(hidden=frozenset({2}))) as found:
        model(**_inputs())
    for watcher in watchers:
        watcher.remove()
    gc.collect()
    assert list(found.hidden) == [2]
    assert [number for number, reference in alive.items() if reference() is not None] == [2]


@pytest.mark.parametrize(
    "inner", [ActivationSpec(), ActivationSpec(hidden=frozenset({0, 1, 3}))], ids=["nothing", "some"]
)
def test_hooks_are_gone_after_success_and_after_an_exception(inner: ActivationSpec) -> None:
    model = tiny_model("llama")
    with torch.no_grad(), record_activations(model, inner) as found:
        model(**_inputs())
        assert bool(_hooks(model)) == bool(inner)
    assert not _hooks(model)
    assert sorted(found.hidden) == sorted(inner.hidden)
    with pytest.raises(RuntimeError, match="in the middle"), record_activations(model, inner):
        raise RuntimeError("in the middle")
    assert not _hooks(model)


def test_a_pass_that_misses_a_layer_is_an_error() -> None:
    model = tiny_model("llama")
    with (
        pytest.raises(ConfigError, match="did not go through all layers"),
        record_activations(model, ActivationSpec(hidden=frozenset({1, 3}))),
    ):
        decoder_blocks(model)[0](torch.zeros(1, 2, 16), position_embeddings=(torch.ones(1, 2, 4), torch.zeros(1, 2, 4)))
    assert not _hooks(model)


def _gradients(model: PreTrainedModel, *, inside: bool) -> dict[str, Tensor]:
    model.zero_grad()
    with record_activations(model, _all(model)) as found:
        logits = model(**_inputs()).logits
        loss = sum((states.float() ** 2).sum() * (index + 1) for index, states in found.hidden.items())
        loss = loss + logits.logsumexp(-1).sum()
        if inside:
            loss.backward()
    if not inside:
        loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("inside", [False, True], ids=["after", "within"])
def test_gradients_are_the_same_under_gradient_checkpointing(kind: str, inside: bool) -> None:
    """The backward pass computes each block a second time, after the context ends or within it."""
    dropout = {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0} if kind == "gpt2" else {}
    model = tiny_model(kind, **dropout).train()
    expected = _gradients(model, inside=False)
    model.activation_checkpointing_enable({"use_reentrant": False})
    before = _hooks(model)  # transformers has one at the embeddings now
    found = _gradients(model, inside=inside)
    assert expected.keys() == found.keys() == {name for name, _ in model.named_parameters()}
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=lambda text, name=name: f"{name}: {text}")
    assert _hooks(model) == before


def test_inner_needs_are_united() -> None:
    one, two = ActivationSpec(hidden=frozenset({1}), maps=frozenset({2})), ActivationSpec(hidden=frozenset({3}))
    assert one | two == ActivationSpec(hidden=frozenset({1, 3}), maps=frozenset({2}))
    assert not ActivationSpec() and bool(two)

"""The parts and sizes of real decoder classes, bare and wrapped."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from distillab.errors import ConfigError
from distillab.models.structure import (
    ModelShape,
    bare_model,
    decoder_blocks,
    decoder_body,
    head_module,
    model_shape,
)
from tests.models.decoders import KINDS, VOCABULARY, tiny_model

each_kind = pytest.mark.parametrize("kind", KINDS)


@each_kind
def test_sizes_are_those_of_the_tensors(kind: str) -> None:
    model = tiny_model(kind)
    shape = model_shape(model)
    assert (shape.blocks, shape.width, shape.heads) == (3, 16, 4)
    assert shape.key_value_heads == (4 if kind in ("gpt2", "opt", "gpt_neox") else 2)
    assert shape.head_width == (8 if kind == "gemma2" else 4)
    assert len(decoder_blocks(model)) == 3
    body = decoder_body(model)
    ids = torch.arange(5)[None] % VOCABULARY
    states = body(input_ids=ids).last_hidden_state
    assert states.shape == (1, 5, shape.width)
    logits = head_module(model)(states)
    if kind != "gemma2":  # it caps its logits after the head
        torch.testing.assert_close(logits, model(input_ids=ids).logits)


def test_a_list_of_experts_as_long_as_the_model_is_not_taken_for_its_blocks() -> None:
    model = tiny_model("llama")
    for block in decoder_blocks(model):
        block.experts = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(3))
    assert all(type(block).__name__ == "LlamaDecoderLayer" for block in decoder_blocks(model))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own, when its compiler is imported
def test_wrappers_are_looked_through() -> None:
    model = tiny_model("llama")
    compiled = torch.compile(model)
    assert isinstance(compiled, torch.nn.Module)
    assert bare_model(model) is model
    assert bare_model(compiled) is model
    assert bare_model(torch.nn.DataParallel(compiled)) is model
    assert len(decoder_blocks(compiled)) == 3


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT asks for an old name
def test_an_adapter_s_wrappers_lead_to_the_model_and_not_past_it() -> None:
    """PEFT's wrappers hand on names that they do not have: `base_model` of the inner one is the headless body."""
    peft = pytest.importorskip("peft")
    model = tiny_model("llama")
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    assert bare_model(wrapped) is model
    assert head_module(wrapped) is model.lm_head
    assert model_shape(wrapped) == model_shape(model)


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="no transformers model"):
        bare_model(torch.nn.Sequential(torch.nn.Linear(2, 2)))
    body = LlamaModel(LlamaConfig(**KINDS["llama"][1]))
    with pytest.raises(ConfigError, match="no output embeddings"):
        head_module(body)
    model = tiny_model("llama")
    model.config.num_hidden_layers = 7
    with pytest.raises(ConfigError, match="blocks were not found"):
        decoder_blocks(model)


def test_sizes_that_a_configuration_leaves_out_follow_from_the_others() -> None:
    assert model_shape(tiny_model("gpt2", n_layer=1)) == ModelShape(1, 16, 4, 4, 4)

"""Attention maps at single blocks: the model computes what it did, and the maps are eager attention's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from distillab.errors import ConfigError
from distillab.models.activations import ActivationSpec, record_activations
from distillab.models.attention import attention_module, require_maps
from distillab.models.structure import decoder_blocks
from tests.models.attention_models import VOCABULARY, tiny

KINDS = ["llama", "mistral", "bitnet", "qwen2", "qwen3", "gemma", "gpt2", "opt", "phi3", "gpt_neox"]
IDS = torch.randint(3, VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(1))


def padded(side: str) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs with ragged rows, and where they hold tokens."""
    mask = torch.ones_like(IDS)
    for row, missing in enumerate((0, 2, 5)):
        if missing:
            mask[row, slice(None, missing) if side == "left" else slice(-missing, None)] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0) * mask
    return {"input_ids": IDS, "attention_mask": mask, "position_ids": positions}, mask.bool()


def packed() -> tuple[dict[str, Tensor], Tensor]:
    positions = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 4]).expand_as(IDS)
    return {"input_ids": IDS, "position_ids": positions}, torch.ones_like(IDS).bool()


def layouts() -> list[tuple[dict[str, Tensor], Tensor]]:
    whole = torch.ones_like(IDS).bool()
    return [({"input_ids": IDS}, whole), padded("left"), padded("right"), packed()]


def read(model: PreTrainedModel, inputs: dict[str, Tensor], blocks: set[int]) -> tuple[Tensor, dict[int, Tensor]]:
    with torch.no_grad(), record_activations(model, ActivationSpec(maps=frozenset(blocks))) as found:
        logits = model(**inputs, use_cache=False).logits
    return logits, found.maps


@pytest.mark.parametrize("kind", KINDS)
def test_the_logits_stay_and_the_maps_are_those_of_eager_attention(kind: str) -> None:
    model, reference = tiny(kind), tiny(kind)
    reference.set_attn_implementation("eager")
    before = [read(model, inputs, set())[0] for inputs, _ in layouts()]
    require_maps(model, frozenset({2}))
    for (inputs, token), logits in zip(layouts(), before, strict=True):
        after, maps = read(model, inputs, {2})
        torch.testing.assert_close(after[token], logits[token], rtol=1e-4, atol=1e-4)
        with torch.no_grad():
            wanted = reference(**inputs, use_cache=False, output_attentions=True).attentions[1]
        torch.testing.assert_close(maps[2].transpose(1, 2)[token], wanted.transpose(1, 2)[token], rtol=1e-4, atol=1e-5)
    assert maps.keys() == {2}


def test_only_the_mapped_blocks_are_switched_and_once(tmp_path: Path) -> None:
    model = tiny("llama")
    for _ in range(2):
        require_maps(model, frozenset({1, 3}))
    modules = [attention_module(block, 1) for block in decoder_blocks(model)]
    assert [module.config._attn_implementation for module in modules] == ["eager", "sdpa", "eager"]
    assert [len(module._forward_pre_hooks) for module in modules] == [1, 0, 1]
    assert not any(module._forward_hooks for module in model.modules())
    assert model.config._attn_implementation == "sdpa"
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert all(attention_module(b, 1).config._attn_implementation == "sdpa" for b in decoder_blocks(again))


def test_generation_goes_on_as_before() -> None:
    model = tiny("llama")
    inputs, _ = padded("left")
    del inputs["position_ids"]
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    before = model.generate(**inputs, **settings)
    alone = model.generate(input_ids=IDS[:1], **settings)
    require_maps(model, frozenset({1, 2, 3}))
    assert torch.equal(model.generate(**inputs, **settings), before)
    assert torch.equal(model.generate(input_ids=IDS[:1], **settings), alone)


def test_the_probe_leaves_no_trace() -> None:
    model = tiny("llama")
    model.model.layers[0].train()
    modes = [module.training for module in model.modules()]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    require_maps(model, frozenset({2}))
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes


def test_dropout_on_attention_is_refused_in_a_model_that_learns() -> None:
    with pytest.raises(ConfigError, match="attention maps") as caught:
        require_maps(tiny("gpt2_dropout"), frozenset({1}))
    assert "attn_pdrop" in str(caught.value)
    require_maps(tiny("gpt2_dropout").requires_grad_(False), frozenset({1}))  # a teacher: no dropout in eval mode


def test_attention_sinks_are_refused() -> None:
    with pytest.raises(ConfigError, match="attention maps"):
        require_maps(tiny("gpt_oss").requires_grad_(False), frozenset({1}))


def test_a_model_that_cannot_switch_is_refused() -> None:
    with pytest.raises(ConfigError, match="attention maps") as caught:
        require_maps(tiny("falcon_heads"), frozenset({1}))
    assert "cannot be switched" in str(caught.value)


def test_a_model_that_is_always_eager_needs_no_switch() -> None:
    model = tiny("bloom").requires_grad_(False)
    require_maps(model, frozenset({2}))
    _, maps = read(model, {"input_ids": IDS}, {2})
    torch.testing.assert_close(maps[2].sum(-1), torch.ones(3, 4, 9))


def test_another_kernel_is_switched_in_the_whole_model() -> None:
    model = tiny("llama")
    model.set_attn_implementation("flex_attention")
    require_maps(model, frozenset({2}))
    assert model.config._attn_implementation == "eager"


def test_a_mapped_block_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        require_maps(tiny("llama"), frozenset({0}))
    with pytest.raises(ConfigError, match="does not exist"):
        require_maps(tiny("llama"), frozenset({4}))


@pytest.mark.parametrize("name", ["bitllama-3M-tok512", "smallmistral-stories"])
def test_real_models_keep_their_logits(name: str, materials: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(materials / "models" / name, dtype=torch.float32).eval()
    inputs, token = padded("left")
    with torch.no_grad():
        before = model(**inputs, use_cache=False).logits
        require_maps(model, frozenset({1, 2}))
        after = model(**inputs, use_cache=False).logits
    scale = float(before[token].abs().max())
    torch.testing.assert_close(after[token] / scale, before[token] / scale, rtol=0, atol=1e-4)


def test_gradients_are_the_same_under_gradient_checkpointing() -> None:
    gradients = []
    for recompute in (False, True):
        model = tiny("llama").train()
        require_maps(model, frozenset({2}))
        if recompute:
            model.activation_checkpointing_enable({"use_reentrant": False})
        with record_activations(model, ActivationSpec(maps=frozenset({2}))) as found:
            logits = model(**padded("right")[0], use_cache=False).logits
        (logits.square().mean() + found.maps[2].square().sum()).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient)

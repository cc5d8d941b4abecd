"""Queries, keys and values are those that the attention itself works with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from distillab.errors import ConfigError
from distillab.models.activations import Activations, ActivationSpec, record_activations
from distillab.models.attention import attention_module
from distillab.models.projections import require_projections
from distillab.models.structure import decoder_blocks
from tests.models.attention_models import VOCABULARY, tiny

BLOCK = 2
INNER = ActivationSpec(projections=frozenset({BLOCK}))
IDS = torch.randint(3, VOCABULARY, (2, 7), generator=torch.Generator().manual_seed(1))
# rotary embeddings turn nothing at position 0: what the kernel gets is what the projections gave
NOWHERE = torch.zeros_like(IDS)


def taken(model: PreTrainedModel, **more: Any) -> Activations:
    with torch.no_grad(), record_activations(model, INNER) as found:
        model(input_ids=IDS, use_cache=False, **more)
    return found


def flat(part: Tensor) -> Tensor:
    """(B, H, L, d) as a kernel reads it -> (B, L, H · d)."""
    return part.transpose(1, 2).flatten(2)


@pytest.mark.parametrize(
    "name",
    ["llama", "llama_wide_heads", "mistral", "bitnet", "qwen2", "qwen3", "gemma", "gpt2", "opt", "phi3", "gpt_neox"],
)
def test_they_are_what_the_kernel_reads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(name)
    attention = attention_module(decoder_blocks(model)[BLOCK - 1], BLOCK)
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def spy(module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        if module is attention:
            seen.append((query, key, value))
        return sdpa_attention_forward(module, query, key, value, *args, **kwargs)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", spy)
    given = taken(model, position_ids=NOWHERE).projections[BLOCK]
    ((query, key, value),) = seen
    ours_query, ours_key = given.query, given.key
    if name == "qwen3":  # taken before the norm on queries and keys
        ours_query = attention.q_norm(ours_query.unflatten(-1, (4, 8))).flatten(2)
        ours_key = attention.k_norm(ours_key.unflatten(-1, (2, 8))).flatten(2)
    if name == "opt":  # taken before the scaling
        ours_query = ours_query * attention.scaling
    torch.testing.assert_close(ours_query, flat(query))
    torch.testing.assert_close(ours_key, flat(key))
    torch.testing.assert_close(given.value, flat(value))


@pytest.mark.parametrize("name", ["falcon_one_key", "falcon_heads", "falcon_groups"])
def test_falcons_groups_are_taken_apart(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(name)
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    real = torch.nn.functional.scaled_dot_product_attention

    def spy(query: Tensor, key: Tensor, value: Tensor, **kwargs: Any) -> Tensor:
        seen.append((query, key, value))
        return real(query, key, value, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    given = taken(model, position_ids=NOWHERE).projections[BLOCK]
    query, key, value = seen[BLOCK - 1]
    torch.testing.assert_close(given.query, flat(query))
    for ours, theirs in ((given.key, key), (given.value, value)):
        # Falcon's newer layout repeats each key and value for the queries of its group
        heads = ours.shape[-1] // 8
        torch.testing.assert_close(ours, flat(theirs[:, :: theirs.shape[1] // heads]))


def test_blooms_heads_are_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("bloom")
    attention = attention_module(decoder_blocks(model)[BLOCK - 1], BLOCK)
    seen: list[tuple[Tensor, ...]] = []
    real = attention._reshape
    monkeypatch.setattr(attention, "_reshape", lambda fused: seen.append(real(fused)) or seen[-1])
    given = taken(model).projections[BLOCK]
    for ours, theirs in zip((given.query, given.key, given.value), seen[0], strict=True):
        torch.testing.assert_close(ours, flat(theirs))


def test_they_are_taken_before_rotary_embeddings() -> None:
    model = tiny("llama")
    first = ActivationSpec(projections=frozenset({1}))
    with torch.no_grad(), record_activations(model, first) as usual:
        model(input_ids=IDS, use_cache=False)
    with torch.no_grad(), record_activations(model, first) as nowhere:
        model(input_ids=IDS, position_ids=NOWHERE, use_cache=False)
    # the first block reads the embeddings alone, so positions show in nothing but the rotation
    assert usual.projections[1].key.shape == (2, 7, 16)
    torch.testing.assert_close(usual.projections[1].query, nowhere.projections[1].query)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox"])
def test_gradients_are_the_same_under_gradient_checkpointing(name: str) -> None:
    gradients = []
    for recompute in (False, True):
        model = tiny(name).train()
        if recompute:
            model.activation_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(0)  # dropout
        with record_activations(model, INNER) as found:
            logits = model(input_ids=IDS, use_cache=False).logits
        given = found.projections[BLOCK]
        loss = logits.square().mean() + (given.query.sin().sum() + given.key.cos().sum() + given.value.exp().sum())
        loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT reads it
def test_an_adapter_is_part_of_them() -> None:
    from peft import LoraConfig, get_peft_model

    model = tiny("llama")
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    with record_activations(adapted, INNER) as found:
        adapted(input_ids=IDS, use_cache=False)
    after = found.projections[BLOCK]
    with adapted.disable_adapter(), record_activations(adapted, INNER) as found:
        adapted(input_ids=IDS, use_cache=False)
    assert not torch.allclose(found.projections[BLOCK].query, after.query)
    after.query.square().sum().backward()
    learned = {name for name, p in adapted.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any(f"layers.{BLOCK - 1}.self_attn.q_proj.lora_B" in name for name in learned)


def test_an_unknown_layout_is_refused_when_the_run_is_built() -> None:
    with pytest.raises(ConfigError, match="not known here") as caught:
        require_projections(tiny("gpt_bigcode"), frozenset({1}))
    assert "c_attn" in str(caught.value) and "gpt_bigcode" in str(caught.value)
    with pytest.raises(ConfigError, match="does not exist"):
        require_projections(tiny("llama"), frozenset({4}))
    require_projections(tiny("llama"), frozenset({1, 3}))


def test_other_widths_than_configured_are_refused() -> None:
    model = tiny("llama")
    attention = attention_module(decoder_blocks(model)[BLOCK - 1], BLOCK)
    # as models that put a gate beside their queries do
    attention.k_proj = torch.nn.Linear(32, 24, bias=False)
    attention.v_proj = torch.nn.Linear(32, 24, bias=False)
    attention.num_key_value_groups = 1
    with pytest.raises(ConfigError, match="other widths"):
        taken(model)


def test_no_hook_is_left() -> None:
    model = tiny("llama")
    taken(model)
    with (
        pytest.raises(ConfigError),
        record_activations(model, ActivationSpec(projections=frozenset({1, 2}), maps=frozenset({2}))),
    ):
        model(input_ids=IDS, use_cache=False)  # no maps under sdpa
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())

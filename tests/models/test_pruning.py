"""A model made of parts of another one is that model with the other parts switched off by hand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Gemma2Config, MixtralConfig, PreTrainedModel, Qwen3Config

from distillab.config.pruning import PruningConfig
from distillab.errors import ConfigError
from distillab.models.importance import Importance, measure_importance
from distillab.models.narrowing import width_parts
from distillab.models.pruning import Kept, choose, pruned_config, pruned_model, pruned_sizes
from distillab.models.structure import decoder_blocks
from tests.models.decoders import KINDS, VOCABULARY, tiny_model

IDS = torch.randint(VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(3))
NARROW = ("llama", "mistral", "qwen2")


def _logits(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(input_ids=IDS, use_cache=False).logits
    return logits


def _batch(ids: Tensor, mask: Tensor) -> Any:
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": positions}


@pytest.mark.parametrize("kind", KINDS)
def test_without_blocks_it_is_the_model_whose_list_of_blocks_is_shorter(kind: str) -> None:
    model = tiny_model(kind, seed=1).double()
    made = pruned_model(model, Kept((0, 2)))
    by_hand = copy.deepcopy(model)
    del decoder_blocks(by_hand)[1]
    by_hand.config.num_hidden_layers = 2
    body = by_hand.get_decoder()
    if hasattr(body.config, "layer_types") and body.config.layer_types is not None:
        body.config.layer_types = [body.config.layer_types[i] for i in (0, 2)]
    torch.testing.assert_close(_logits(made), _logits(by_hand), rtol=0, atol=1e-12)
    assert not torch.allclose(_logits(made), _logits(model))
    if getattr(model.config, "layer_types", None):
        assert made.config.layer_types == [model.config.layer_types[i] for i in (0, 2)]


@pytest.mark.parametrize("kind", NARROW)
def test_without_channels_and_heads_it_is_the_model_in_which_they_give_zero(kind: str) -> None:
    model = tiny_model(kind, seed=2, hidden_size=24, num_attention_heads=6, num_key_value_heads=3).double()
    kept = Kept((0, 2), channels=((0, 5, 23), (1, 2, 3)), groups=((0, 2), (1, 2)))
    made = pruned_model(model, kept)
    by_hand = copy.deepcopy(model)
    blocks = decoder_blocks(by_hand)
    with torch.no_grad():
        for number, channels, groups in ((0, (0, 5, 23), (0, 2)), (2, (1, 2, 3), (1, 2))):
            gone = [i for i in range(24) if i not in channels]
            blocks[number].mlp.down_proj.weight[:, gone] = 0
            heads = [head for head in range(6) if head // 2 not in groups]  # two query heads a key-value head
            for head in heads:
                blocks[number].self_attn.o_proj.weight[:, head * 4 : head * 4 + 4] = 0
    by_hand = pruned_model(by_hand, Kept((0, 2)))
    torch.testing.assert_close(_logits(made), _logits(by_hand), rtol=0, atol=1e-12)
    config = made.config
    assert (config.intermediate_size, config.num_attention_heads, config.num_key_value_heads) == (3, 4, 2)
    assert config.head_dim == 4  # hidden_size / num_attention_heads would be 6


def test_it_goes_through_plain_transformers(tmp_path: Path) -> None:
    model = tiny_model("llama", hidden_size=24, num_attention_heads=6, num_key_value_heads=3, tie_word_embeddings=True)
    made = pruned_model(model, Kept((1, 2), channels=((0, 1), (2, 3)), groups=((0, 1), (1, 2))))
    made.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(_logits(again), _logits(made))
    prompt = IDS[:1]
    options = {"max_new_tokens": 6, "do_sample": False}
    with_cache = again.generate(prompt, **options)  # the cache is kept by the blocks' new numbers
    assert torch.equal(with_cache, again.generate(prompt, **options, use_cache=False))


def _naive(model: PreTrainedModel, ids: Tensor, mask: Tensor, reach: int) -> list[float]:
    """1 − cos by loops over tokens, from transformers' own hidden states; the last one is before the final norm."""
    last: list[Tensor] = []
    handle = decoder_blocks(model)[-1].register_forward_hook(lambda module, args, output: last.append(output))
    with torch.no_grad():
        states = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False).hidden_states
    handle.remove()
    states = [*states[:-1], last[0]]
    found = []
    for place in range(len(states) - reach):
        distances = []
        for row, column in mask.nonzero().tolist():
            a, b = (states[i][row, column].tolist() for i in (place, place + reach))
            dot, norms = sum(x * y for x, y in zip(a, b, strict=True)), [sum(x * x for x in v) ** 0.5 for v in (a, b)]
            distances.append(1 - dot / (norms[0] * norms[1]))
        found.append(sum(distances) / len(distances))
    return found


@pytest.mark.parametrize("reach", [1, 2])
def test_influence_is_a_mean_over_tokens_that_are_not_padding(reach: int) -> None:
    model = tiny_model("llama", seed=4).double()
    mask = torch.ones_like(IDS)
    mask[1, 5:] = 0
    halves = [_batch(IDS[i : i + 1], mask[i : i + 1]) for i in range(2)]
    found = measure_importance(model, halves, reaches={reach})
    torch.testing.assert_close(found.distances[reach].tolist(), _naive(model, IDS, mask, reach), rtol=0, atol=1e-12)
    assert found.tokens == 14


def test_channels_and_heads_are_measured_where_they_are_read() -> None:
    model = tiny_model("llama", seed=5).double()
    read: dict[str, Tensor] = {}
    block = decoder_blocks(model)[1]
    block.mlp.down_proj.register_forward_pre_hook(lambda module, args: read.update(channels=args[0]))
    block.self_attn.o_proj.register_forward_pre_hook(lambda module, args: read.update(heads=args[0]))
    mask = torch.ones_like(IDS)
    mask[0, 7:] = 0
    found = measure_importance(model, [_batch(IDS, mask)], reaches={1}, widths=width_parts(model))
    tokens = mask.nonzero().tolist()
    for channel in (0, 23):
        mean = sum(abs(float(read["channels"][r, c, channel])) for r, c in tokens) / len(tokens)
        assert float(found.channels[1][channel]) == pytest.approx(mean, abs=1e-12)
    for group in (0, 1):  # two query heads of width 4 each
        norms = [float(read["heads"][r, c, group * 8 : group * 8 + 8].pow(2).sum()) ** 0.5 for r, c in tokens]
        assert float(found.groups[1][group]) == pytest.approx(sum(norms) / len(norms), abs=1e-12)


def test_a_block_that_does_nothing_has_no_influence_and_is_dropped_first() -> None:
    model = tiny_model("llama", seed=6).double()
    with torch.no_grad():
        for projection in (decoder_blocks(model)[1].mlp.down_proj, decoder_blocks(model)[1].self_attn.o_proj):
            projection.weight.zero_()
    found = measure_importance(model, [_batch(IDS, torch.ones_like(IDS))], reaches={1})
    assert abs(float(found.distances[1][1])) < 1e-12
    settings = PruningConfig(keep_layers=2)
    kept = choose(pruned_sizes(model.config, settings), settings, found, blocks=3)
    assert kept == Kept((0, 2))
    torch.testing.assert_close(_logits(pruned_model(model, kept)), _logits(model), rtol=0, atol=1e-12)


SCORES = Importance(
    distances={1: torch.tensor([0.9, 0.1, 0.5, 0.2, 0.1, 0.8]), 3: torch.tensor([0.9, 0.2, 0.3, 0.8])},
    channels=tuple(torch.tensor([1.0, 3.0, 2.0, 0.0]) + i for i in range(6)),
    groups=tuple(torch.tensor([0.0, 1.0]) for _ in range(6)),
)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"keep_layers": 3}, Kept((0, 2, 5))),
        ({"keep_layers": {"count": 5, "by": "influence"}}, Kept((0, 1, 2, 3, 5))),  # of equal ones the first stays
        ({"keep_layers": {"count": 3, "by": "contiguous"}}, Kept((0, 4, 5))),
        ({"keep_layers": {"count": 3, "by": "uniform"}}, Kept((0, 3, 5))),
        ({"keep_layers": {"count": 1, "by": "uniform"}}, Kept((0,))),
        ({"keep_layers": [1, 4]}, Kept((1, 4))),
        ({"keep_layers": [1], "mlp": 0.5, "heads": 0.4}, Kept((1,), channels=((1, 2),), groups=((1,),))),
    ],
)
def test_what_is_kept(settings: dict[str, Any], expected: Kept) -> None:
    config = KINDS["llama"][0](**{**KINDS["llama"][1], "num_hidden_layers": 6, "intermediate_size": 4})
    pruning = PruningConfig(**settings)
    assert choose(pruned_sizes(config, pruning), pruning, SCORES, blocks=6) == expected


def test_lists_with_an_entry_a_block_are_cut_and_others_are_not() -> None:
    config = Gemma2Config(**{**KINDS["gemma2"][1], "num_hidden_layers": 3, "eos_token_id": [1, 2, 3]})
    config.no_rope_layers = [1, 0, 1]
    kept = pruned_sizes(config, PruningConfig(keep_layers=[0, 2]))
    made = pruned_config(config, kept, layers=(0, 2))
    assert made.layer_types == [config.layer_types[0], config.layer_types[2]]
    assert (made.no_rope_layers, made.eos_token_id) == ([1, 1], [1, 2, 3])
    assert (config.num_hidden_layers, len(config.layer_types)) == (3, 3)  # the teacher's stays as it was


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep_layers": 3}, "wanted: 3"),
        ({"keep_layers": [0, 3]}, "up to number 3"),
        ({"mlp": 0.99}, "24 MLP channels"),
        ({"heads": 0.9}, "2 key-value heads"),
    ],
)
def test_more_than_there_is_cannot_be_kept(settings: dict[str, Any], message: str) -> None:
    config = KINDS["llama"][0](**KINDS["llama"][1])
    with pytest.raises(ConfigError, match=r"must be a smaller part of it") as caught:
        pruned_sizes(config, PruningConfig(**settings))
    assert message in str(caught.value)


@pytest.mark.parametrize("kind", ["bitnet", "gpt2"])
def test_other_mlps_keep_their_width(kind: str) -> None:
    with pytest.raises(ConfigError, match="drop whole blocks by keep_layers"):
        width_parts(tiny_model(kind))


def test_experts_keep_their_width_and_a_norm_over_one_head_is_no_obstacle() -> None:
    sizes = {**KINDS["llama"][1], "head_dim": 8}
    experts = AutoModelForCausalLM.from_config(MixtralConfig(**sizes, num_local_experts=2))
    with pytest.raises(ConfigError, match="drop whole blocks by keep_layers"):
        width_parts(experts)
    model = AutoModelForCausalLM.from_config(Qwen3Config(**sizes)).double().eval()
    assert pruned_model(model, Kept((0,), groups=((1,),))).config.num_attention_heads == 2


def test_a_model_whose_blocks_read_their_number_is_refused() -> None:
    """The check asks both models, so it finds what no list of architectures names."""
    model = tiny_model("llama", seed=7)
    later = decoder_blocks(model)[2]
    later.register_forward_hook(lambda module, args, output: output + 1.0)  # no parameter of the state
    with pytest.raises(ConfigError, match="does not work as it did") as caught:
        pruned_model(model, Kept((0, 2)))
    assert "standard deviation" in str(caught.value)


def test_sizes_that_the_architecture_refuses_are_named() -> None:
    model = tiny_model("llama", hidden_size=16, num_attention_heads=4, num_key_value_heads=4)
    with pytest.raises(ConfigError, match="does not allow the sizes") as caught:
        pruned_model(model, Kept((0, 1, 2), groups=((0, 1, 2),) * 3))
    assert "groups=3" in str(caught.value)

"""Models without attention, and mixtures of experts: trained and judged rightly, or refused with the reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    MambaConfig,
    MixtralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3MoeConfig,
    RwkvConfig,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from distillab.config.layer_terms import AttentionMapsConfig, AttentionRelationsConfig, HiddenStatesConfig
from distillab.errors import ConfigError
from distillab.models.generation import Decoding, Generated, generate_batches
from distillab.models.padding import reads_left_padding, require_no_left_padding_read
from distillab.models.structure import ModelShape, model_shape
from distillab.objectives.build import build_objective
from tests.models.decoders import tiny_model

VOCABULARY = 61
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2}
EXPERTS = SIZES | {
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "num_experts_per_tok": 2,
    "output_router_logits": True,
}
MOE = {
    "mixtral": MixtralConfig(num_local_experts=4, **EXPERTS),
    "qwen3-moe": Qwen3MoeConfig(num_experts=4, moe_intermediate_size=16, head_dim=8, **EXPERTS),
}
PROMPTS = ((5, 9, 3), (7, 2, 8, 4, 11, 30), (12,), (33, 41, 6))


def _model(config: PreTrainedConfig) -> PreTrainedModel:
    """Random weights, large enough that a token decides what follows."""
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    return model.eval()


def _answers(model: PreTrainedModel, batch_size: int) -> list[Generated]:
    batches = generate_batches(model, PROMPTS, decoding=Decoding(8), stop_ids=[60], batch_size=batch_size)
    return [answer for batch in batches for answer in batch]


@pytest.mark.parametrize("config", MOE.values(), ids=MOE)
def test_a_mixture_of_experts_that_gives_router_logits_answers(config: PreTrainedConfig) -> None:
    model = _model(config)
    together = _answers(model, 4)
    assert model.config.output_router_logits is True  # what was there is what will be saved
    model.config.output_router_logits = False
    assert together == _answers(model, 4)
    assert len({answer.ids for answer in together}) > 1


RECURRENT = {
    "mamba": (MambaConfig(state_size=4, **SIZES), False),
    "rwkv": (RwkvConfig(context_length=64, **SIZES), True),
}


@pytest.mark.parametrize(("config", "reads"), RECURRENT.values(), ids=RECURRENT)
def test_answers_do_not_depend_on_the_batch(config: PreTrainedConfig, reads: bool) -> None:
    """RWKV passes over the attention mask; padded on the left, 4 of 4 answers would be others."""
    model = _model(config)
    assert reads_left_padding(model) is reads
    assert _answers(model, 1) == _answers(model, 4) == _answers(model, 3)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2", "opt"])
def test_a_model_with_attention_does_not_read_padding(kind: str) -> None:
    assert not reads_left_padding(tiny_model(kind))


def test_left_padding_in_training_is_refused_where_it_is_read() -> None:
    require_no_left_padding_read(_model(RECURRENT["mamba"][0]), role="student")
    with pytest.raises(ConfigError, match="before a row") as caught:
        require_no_left_padding_read(_model(RECURRENT["rwkv"][0]), role="student")
    assert "padding_side: right" in str(caught.value)


@pytest.mark.parametrize("config", [config for config, _ in RECURRENT.values()], ids=RECURRENT)
def test_a_model_without_attention_has_a_shape(config: PreTrainedConfig) -> None:
    assert model_shape(_model(config)) == ModelShape(blocks=2, width=16, heads=0, key_value_heads=0, head_width=0)


def test_terms_on_attention_need_attention_and_others_do_not() -> None:
    recurrent = model_shape(_model(RECURRENT["mamba"][0]))
    other = model_shape(tiny_model("llama"))
    settings: Any
    for settings in (AttentionMapsConfig(), AttentionRelationsConfig()):
        with pytest.raises(ConfigError, match="there is none in the teacher") as caught:
            build_objective([settings], shared_width=0, student=other, teacher=recurrent)
        assert settings.kind in str(caught.value)
    assert build_objective([HiddenStatesConfig()], shared_width=0, student=other, teacher=recurrent).terms

"""A model that reads ahead is found before training; no causal model is taken for one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedConfig

from distillab.errors import ConfigError, DistillabError, TeacherError
from distillab.models.causal import require_causal
from distillab.models.loading import load_model, random_model
from tests.models.decoders import KINDS, tiny_model

CPU = torch.device("cpu")
_SHAPE = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
_ENCODERS: dict[str, PreTrainedConfig] = {
    "bert": transformers.BertConfig(**_SHAPE),
    "roberta": transformers.RobertaConfig(**_SHAPE),
    "electra": transformers.ElectraConfig(embedding_size=32, **_SHAPE),
    "xlm": transformers.XLMConfig(vocab_size=61, emb_dim=32, n_layers=2, n_heads=4, max_position_embeddings=64),
    "xlnet": transformers.XLNetConfig(vocab_size=61, d_model=32, n_layer=2, n_head=4, d_inner=48),
}
_MOE = {"num_experts_per_tok": 2, "num_key_value_heads": 2, **_SHAPE}
_CAUSAL: dict[str, PreTrainedConfig] = {
    "bert-decoder": transformers.BertConfig(is_decoder=True, **_SHAPE),
    "roberta-decoder": transformers.RobertaConfig(is_decoder=True, **_SHAPE),
    "xlm-decoder": transformers.XLMConfig(
        vocab_size=61, emb_dim=32, n_layers=2, n_heads=4, max_position_embeddings=64, causal=True
    ),
    "sliding-window": transformers.MistralConfig(sliding_window=2, num_key_value_heads=2, **_SHAPE),
    "mamba": transformers.MambaConfig(vocab_size=61, hidden_size=32, num_hidden_layers=2, state_size=8),
    "mamba2": transformers.Mamba2Config(
        vocab_size=61, hidden_size=32, num_hidden_layers=2, state_size=8, num_heads=8, head_dim=8, n_groups=2
    ),
    "rwkv": transformers.RwkvConfig(vocab_size=61, hidden_size=32, num_hidden_layers=2, context_length=64),
    "mixtral": transformers.MixtralConfig(num_local_experts=4, **_MOE),
    "qwen3-moe": transformers.Qwen3MoeConfig(num_experts=4, moe_intermediate_size=32, head_dim=8, **_MOE),
}


def _saved(config: PreTrainedConfig, folder: Path) -> str:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["bert", "roberta", "electra", "xlm"])
def test_an_encoder_is_refused(name: str, dtype: str, tmp_path: Path) -> None:
    path = _saved(_ENCODERS[name], tmp_path)
    setting = '"causal": true' if name == "xlm" else '"is_decoder": true'
    with pytest.raises(ConfigError, match="student reads ahead") as student:
        load_model(path, dtype=dtype, device=CPU, revision=None, role="student")
    assert setting in str(student.value)
    with pytest.raises(TeacherError, match="teacher reads ahead"):
        load_model(path, dtype=dtype, device=CPU, revision=None, role="teacher")
    with pytest.raises(ConfigError, match="student reads ahead"):
        random_model(path, seed=1, dtype=dtype, device=CPU, revision=None)


def test_an_encoder_without_such_a_setting_is_refused_without_naming_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="reads ahead") as refused:
        load_model(_saved(_ENCODERS["xlnet"], tmp_path), dtype="float32", device=CPU, revision=None, role="student")
    assert "true" not in str(refused.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", [*_CAUSAL, *KINDS])
def test_a_causal_model_is_not_refused(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = tiny_model(name) if name in KINDS else AutoModelForCausalLM.from_config(_CAUSAL[name])
    require_causal(model.to(dtype), role="student")


@pytest.mark.parametrize("name", ["bitllama-3M-tok512", "smallmistral-stories", "stories260K-tok512"])
def test_a_real_model_is_not_refused(materials: Path, name: str) -> None:
    load_model(str(materials / "models" / name), dtype="auto", device=CPU, revision=None, role="teacher")


def test_the_question_draws_nothing_and_leaves_the_mode() -> None:
    model = tiny_model("llama").train()
    state = torch.get_rng_state()
    require_causal(model, role="student")
    assert model.training
    assert torch.equal(state, torch.get_rng_state())


def test_a_configuration_of_another_kind_of_model_is_an_error_and_no_traceback(tmp_path: Path) -> None:
    transformers.T5Config(vocab_size=61, d_model=16, d_kv=4, d_ff=24, num_layers=1, num_heads=2).save_pretrained(
        tmp_path
    )
    with pytest.raises(DistillabError, match="not one of a causal language model"):
        random_model(str(tmp_path), seed=0, dtype="float32", device=CPU, revision=None)

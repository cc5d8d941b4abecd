"""LoRA adapters on a student: what learns, what is saved, and what a quantised base gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, PreTrainedModel

from distillab.config.student import AdapterConfig, Quantization
from distillab.errors import ConfigError
from distillab.models.adapters import add_adapter, learning, load_adapter, merged, save_adapter
from distillab.models.loading import load_model
from distillab.models.quantised import keep_differentiable
from distillab.models.structure import bare_model
from tests.models.decoders import tiny_model
from tests.quantised import INT8, NF4

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)  # PEFT reads it
IDS = torch.arange(3, 19).view(2, 8)
ALL = 7  # linear layers of a Llama block


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "model"
    model = tiny_model("llama", hidden_size=64, intermediate_size=128)
    model.save_pretrained(folder)
    return folder


Load = Callable[..., PreTrainedModel]


@pytest.fixture
def load(base: Path) -> Load:
    def run(quantization: Quantization | None = None) -> PreTrainedModel:
        cpu = torch.device("cpu")
        return load_model(
            str(base), dtype="float32", device=cpu, revision=None, role="student", quantization=quantization
        )

    return run


def _logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def _loss(model: torch.nn.Module) -> torch.Tensor:
    return model(input_ids=IDS, labels=IDS).loss


def _taught(model: PreTrainedModel, **settings: Any) -> PreTrainedModel:
    """With adapters that were trained for two steps."""
    adapted = add_adapter(model, AdapterConfig(**settings), seed=0).train()
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):
        optimizer.zero_grad()
        _loss(adapted).backward()
        optimizer.step()
    return adapted.eval()


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"]], ids=str)
def test_new_adapters_change_nothing_and_are_all_that_learns(load: Load, targets: Any) -> None:
    model = load()
    before, sizes = _logits(model), {n: m.weight.shape for n, m in model.model.named_modules() if "proj" in n}
    names = list(sizes) if targets == "all-linear" else [n for n in sizes if n.rpartition(".")[2] in targets]
    adapted = add_adapter(model, AdapterConfig(rank=3, targets=targets), seed=0)
    assert torch.equal(_logits(adapted), before)
    trained = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    assert trained == sum(3 * sum(sizes[name]) for name in names)
    assert f"rank 3: {trained:,} parameters are trained; embeddings, norms" in learning(adapted)


@pytest.mark.parametrize("kind", [None, INT8, NF4])
def test_merging_gives_what_the_adapters_give(load: Load, kind: Quantization | None) -> None:
    adapted = _taught(load(kind), rank=4, alpha=6)
    expected, plain = _logits(adapted), _logits(load(kind))
    layer = bare_model(adapted).model.layers[1].mlp.up_proj
    a, b = (getattr(layer, name)["default"].weight.detach().double() for name in ("lora_A", "lora_B"))
    whole = merged(adapted)
    torch.testing.assert_close(_logits(whole), expected, atol=2e-5, rtol=1e-4)
    assert not torch.allclose(expected, plain, atol=1e-3)
    if kind is None:
        weight = load().model.layers[1].mlp.up_proj.weight.double() + 6 / 4 * b @ a
        torch.testing.assert_close(whole.model.layers[1].mlp.up_proj.weight.double(), weight, atol=1e-7, rtol=0)
    assert getattr(whole.config, "quantization_config", None) is None
    assert all(type(p) is torch.nn.Parameter and p.dtype == torch.float32 for p in whole.parameters())


def test_alpha_and_dropout_have_effect(load: Load) -> None:
    def moved(**settings: Any) -> float:
        adapted = add_adapter(load(), AdapterConfig(rank=4, **settings), seed=0)
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_B" in name:
                    parameter.fill_(1e-3)
        before = _logits(load())
        adapted.train(settings.get("dropout", 0) > 0)
        with torch.no_grad():
            return float((adapted(input_ids=IDS).logits - before).norm())

    one, two = moved(alpha=4), moved(alpha=8)
    assert 1.9 < two / one < 2.1
    assert moved(alpha=4, dropout=0.5) != one


def test_saved_adapters_load_by_peft_by_transformers_and_here(load: Load, base: Path, tmp_path: Path) -> None:
    adapted = _taught(load())
    expected = _logits(adapted)
    save_adapter(tmp_path, adapted, dtype=torch.float32)
    assert {file.name for file in tmp_path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    found = [
        AutoPeftModelForCausalLM.from_pretrained(tmp_path),
        AutoModelForCausalLM.from_pretrained(tmp_path),
        load_adapter(load(), tmp_path, error=ConfigError),
    ]
    for model in found:
        assert torch.equal(_logits(model), expected)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", [INT8, NF4])
@pytest.mark.parametrize("when", ["never", "before adapters", "before training", "between steps"])
def test_every_adapter_of_a_quantised_student_learns(
    load: Load, kind: Quantization, when: str, checkpointing: bool
) -> None:
    model = load(kind)
    if when == "before adapters":
        _logits(model)
    adapted = add_adapter(model, AdapterConfig(rank=2), seed=0)
    if checkpointing:
        bare_model(adapted).activation_checkpointing_enable({"use_reentrant": False})
    if when == "before training":
        _logits(adapted)
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.1)
    parts = {n: p for n, p in adapted.named_parameters() if "lora_B" in n}
    seen = []
    for _ in range(2):
        optimizer.zero_grad()
        _loss(adapted.train()).backward()
        optimizer.step()
        seen.append({name: part.detach().clone() for name, part in parts.items()})
        if when == "between steps":
            _logits(adapted)
    assert len(parts) == 3 * ALL
    assert all(bool(part.any()) for part in seen[0].values())
    assert all(not torch.equal(part, seen[0][name]) for name, part in seen[1].items())


@pytest.mark.quantised
def test_what_bitsandbytes_has_packed_is_unpacked(load: Load) -> None:
    model = load("nf4")
    before = [p.detach().clone() for p in model.parameters() if not p.is_floating_point()]
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = type(module)(1, 1).support_avx512bf16_for_cpu
    _logits(model)  # packs them, on a CPU with AVX512-BF16
    keep_differentiable(model)
    after = [p for p in model.parameters() if not p.is_floating_point()]
    assert all(torch.equal(a.flatten(), b.flatten()) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("wrong", "text"),
    [({"targets": ["attention"]}, "q_proj"), ({"targets": ["lm_head"]}, "input embeddings")],
    ids=["no such module", "tied head"],
)
def test_targets_that_cannot_be(wrong: dict[str, Any], text: str) -> None:
    model = tiny_model("llama", tie_word_embeddings=True)
    with pytest.raises(ConfigError, match=text):
        add_adapter(model, AdapterConfig(**wrong), seed=0)


def test_adapters_on_adapters_are_refused(load: Load) -> None:
    with pytest.raises(ConfigError, match="already"):
        add_adapter(add_adapter(load(), AdapterConfig(), seed=0), AdapterConfig(), seed=0)

"""Apply the head of a language model apart from its body: hidden states -> logits, a few rows at a time.

Shape letters: B sequences, L positions, N rows, D width of the hidden states, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from distillab.errors import ConfigError
from distillab.models.batch import TokenBatch
from distillab.models.inputs import model_inputs
from distillab.models.structure import bare_model, head_module

_PROBE_TOKENS = 4


@dataclass(frozen=True)
class OutputHead:
    """logits = finish(h Wᵀ + b), finish(x) = cap · tanh(x · multiplier / cap), or x · multiplier without a cap."""

    weight_VD: Tensor
    bias_V: Tensor | None = None
    multiplier: float = 1.0
    cap: float | None = None

    def product(self, hidden_ND: Tensor, out: Tensor | None = None) -> Tensor:
        """Compute (N, V) h Wᵀ + b, in the dtype of both, on the head's device.

        Args:
            out: (N, V) memory to write into, without gradients; a new tensor for every chunk would cost as much as the
                product itself, if the system has to find and clear its pages each time.
        """
        if out is None:
            return torch.nn.functional.linear(hidden_ND, self.weight_VD, self.bias_V)
        if self.bias_V is None:
            return torch.mm(hidden_ND, self.weight_VD.T, out=out)
        return torch.addmm(self.bias_V, hidden_ND, self.weight_VD.T, out=out)

    def finish(self, product_NV: Tensor) -> Tensor:
        """Turn a product into (N, V) logits; return the product itself if the model does nothing more."""
        if self.multiplier != 1.0:
            product_NV = product_NV * self.multiplier
        if self.cap is not None:
            product_NV = torch.tanh(product_NV / self.cap) * self.cap
        return product_NV

    def logits(self, hidden_ND: Tensor, out: Tensor | None = None) -> Tensor:
        """Compute (N, V) logits on the head's device; `out`: as for `product`."""
        return self.finish(self.product(hidden_ND.to(self.weight_VD.device), out))


def output_head(model: torch.nn.Module) -> OutputHead:
    """Return a model's head as it is now; gradients of its tensors reach the model's parameters.

    A head under tensor parallelism is gathered. Under FSDP, call it where the head is called, as `with_lm_head` does.

    Raises:
        ConfigError: the head is no matrix product with a bias, so it cannot be computed in parts.
    """
    config = bare_model(model).config.get_text_config()
    weight, bias = _matrix(head_module(model))
    # the names that transformers' models give the same two operations
    multiplier = float(getattr(config, "logit_scale", None) or 1.0)
    multiplier *= float(getattr(config, "lm_head_multiplier", None) or 1.0)
    multiplier /= float(getattr(config, "logits_scaling", None) or 1.0)
    cap = getattr(config, "final_logit_softcapping", None)
    return OutputHead(_gathered(weight), None if bias is None else _gathered(bias), multiplier, cap and float(cap))


def with_lm_head(
    model: torch.nn.Module, batch: TokenBatch, call: Callable[[Tensor, OutputHead], Tensor], *, device: torch.device
) -> Tensor:
    """Run a model up to its head, and `call` in the head's place with the hidden states (B, L, D) and the head.

    The call replaces the head's forward, so whatever gathers or moves the head's weights around it
    (DDP, FSDP, ZeRO-3, offloading) works here too, and nothing of size tokens × vocabulary is made.

    Args:
        call: returns one tensor, which is returned.
        device: where the model's inputs go.
    """
    head = head_module(model)
    results: list[Tensor] = []

    def forward(hidden_BLD: Tensor) -> Tensor:
        return call(hidden_BLD, output_head(model))

    # after all other hooks: ZeRO-3 puts a node into the graph there, which gathers the weights in the backward pass
    keep = head.register_forward_hook(lambda module, args, output: results.append(output))
    try:
        with _forward_replaced(head, forward):
            model(**model_inputs(batch, device, model=bare_model(model)))
    finally:
        keep.remove()
    return results[0]


def require_separable_head(model: torch.nn.Module, *, role: str) -> None:
    """Check on a few tokens that `output_head` gives the model's own logits.

    Raises:
        ConfigError: it does not: the model does something between its hidden states and its logits that is not
            supported.
    """
    inner = bare_model(model)
    device = cast(Tensor, inner.get_input_embeddings().weight).device
    ids = torch.arange(_PROBE_TOKENS, device=device)[None] % cast(Tensor, inner.get_input_embeddings().weight).shape[0]
    kept: list[Tensor] = []
    handle = head_module(inner).register_forward_pre_hook(lambda module, args: kept.append(args[0]))
    training = inner.training
    inner.eval()
    try:
        with torch.no_grad():
            expected = inner(input_ids=ids, use_cache=False).logits.float()
            found = output_head(inner).logits(kept[0]).float().to(expected.device)
    finally:
        handle.remove()
        inner.train(training)
    scale = float(expected.abs().max())
    # heads of another dtype round differently; a forgotten operation is off by far more
    if found.shape != expected.shape or float((found - expected).abs().max()) > 0.02 * max(scale, 1e-3):
        raise ConfigError(
            f"The {role}'s logits are not what its head alone gives, so they cannot be computed in parts.",
            facts=[
                f"class: {type(inner).__name__}",
                f"logits {tuple(expected.shape)} against {tuple(found.shape)}, largest {scale:.3g}"
                + (f", off by {float((found - expected).abs().max()):.3g}" if found.shape == expected.shape else ""),
            ],
            fix="supported: a matrix product, a bias, a multiplier, final_logit_softcapping; please report the model",
        )


@contextmanager
def _forward_replaced(module: torch.nn.Module, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    # accelerate's device hooks call the function under this name
    name = "_old_forward" if hasattr(module, "_hf_hook") else "forward"
    own = module.__dict__.get(name)
    object.__setattr__(module, name, forward)
    try:
        yield
    finally:
        if own is None:
            object.__delattr__(module, name)
        else:
            object.__setattr__(module, name, own)


def _matrix(head: torch.nn.Module) -> tuple[Tensor, Tensor | None]:
    """Return the weight and bias of a head, a LoRA adapter added."""
    saved = getattr(head, "modules_to_save", None)  # PEFT: a full copy that is trained in place of the head
    if isinstance(saved, torch.nn.ModuleDict):
        return _matrix(saved[cast(Any, head).active_adapters[0]])
    base = getattr(head, "base_layer", None)
    if isinstance(base, torch.nn.Module):
        return _with_adapters(head, base)
    weight = getattr(head, "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() != 2 or not weight.is_floating_point():
        raise ConfigError(
            "The head is no plain matrix, so its logits cannot be computed in parts.",
            facts=[f"class: {type(head).__name__}"],
            fix="leave the output embeddings unquantised (bitsandbytes: llm_int8_skip_modules: [lm_head])",
        )
    return weight, cast(Tensor | None, getattr(head, "bias", None))


def _with_adapters(head: torch.nn.Module, base: torch.nn.Module) -> tuple[Tensor, Tensor | None]:
    layer = cast(Any, head)
    weight, bias = _matrix(base)
    if layer.disable_adapters or layer.merged:
        return weight, bias
    for name in layer.active_adapters:
        dropout = layer.lora_dropout[name]
        if (layer.training and getattr(dropout, "p", 0.0) > 0) or getattr(layer, "use_dora", {}).get(name):
            raise ConfigError(
                "An adapter on the head must be plain LoRA without dropout.",
                facts=[f"adapter {name} on {type(base).__name__}"],
                fix="leave lm_head out of target_modules, or set lora_dropout: 0 and use_dora: false",
            )
        weight = weight + layer.get_delta_weight(name)
    return weight, bias


def _gathered(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

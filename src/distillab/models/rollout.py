"""Sample answers of the student during training: a loop of its own, whose draws depend on nothing but given numbers.

The head is applied at the last position alone, a finished row leaves the batch, and each token's log-probability is
kept. Next to `generate` of transformers that saves a third of the time, and the answers do not depend on which rows
share a batch, except for rounding.

Shapes: B rows, T new tokens, L positions read so far, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import DynamicCache

from distillab.errors import ConfigError
from distillab.models.generation import Generated, all_stop_ids, no_router_logits
from distillab.models.inputs import takes
from distillab.models.probing import coarsest, embedding_rows, logits_of, random_rows
from distillab.models.structure import bare_model

_PROBE_LENGTHS = (3, 6)
_PROBE_TOKENS = 4
_GAPS = {torch.float32: 1e-4, torch.float64: 1e-8}
_GAP_LOW_PRECISION = 0.1  # nats


@dataclass(frozen=True)
class Sampled:
    """An answer, and the natural-log probability of each of its `scored_ids` among the first `width` ids, untempered.

    Attributes:
        answer: its ids and how it ended.
        logp: one number for each of `answer.scored_ids`.
    """

    answer: Generated
    logp: tuple[float, ...]


@torch.no_grad()
def sample_answers(
    model: torch.nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    stop_ids: Sequence[int],
    width: int,
    temperature: float,
    uniform_BT: Tensor,
) -> list[Sampled]:
    """Continue each prompt by at most T tokens, all in one batch, in eval mode; the mode is restored afterwards.

    Args:
        model: maybe wrapped, but not for several processes.
        prompts: ids, at least one each.
        stop_ids: end an answer, in addition to those of the model's generation config.
        width: the tokens are the first so many ids; the probability of others is left out.
        temperature: the logits are divided by it for the draw; 0: the most likely token.
        uniform_BT: (B, T) float64 numbers in [0, 1), one for each token: the draw by the inverse of the cumulative
            distribution. No other random number is used.
    """
    was_training = model.training
    model.eval()
    try:
        return _sampled(model, prompts, all_stop_ids(bare_model(model), stop_ids), width, temperature, uniform_BT)
    finally:
        model.train(was_training)


def _sampled(
    model: Any, prompts: Sequence[Sequence[int]], stops: list[int], ids: int, temperature: float, uniform_BT: Tensor
) -> list[Sampled]:
    bare = bare_model(model)
    device = bare.device
    width, size = max(len(prompt) for prompt in prompts), len(prompts)
    ids_BL = torch.full((size, width), stops[0] if stops else 0)
    mask_BL = torch.zeros_like(ids_BL)
    for row, prompt in enumerate(prompts):
        ids_BL[row, width - len(prompt) :] = torch.tensor(prompt)
        mask_BL[row, width - len(prompt) :] = 1
    ids_BL, mask_BL, uniform_BT = ids_BL.to(device), mask_BL.to(device), uniform_BT.to(device)
    position_BL = (mask_BL.cumsum(dim=1) - 1).clamp(min=0)
    tokens_BT = torch.full(uniform_BT.shape, -1, device=device)
    logp_BT = torch.zeros(uniform_BT.shape, dtype=torch.float64, device=device)
    left, ends = torch.arange(size, device=device), torch.tensor(stops, device=device)
    cache = DynamicCache(config=bare.config)
    extra = _extra(bare)
    for place in range(uniform_BT.shape[1]):
        positions = {"position_ids": position_BL} if "position_ids" in extra else {}
        output = model(
            input_ids=ids_BL,
            attention_mask=mask_BL,
            past_key_values=cache,
            use_cache=True,
            **{**extra, **positions},
        )
        chosen_B, logp_B = _draw(output.logits[:, -1, :ids], temperature, uniform_BT[left, place])
        tokens_BT[left, place], logp_BT[left, place] = chosen_B, logp_B
        going = (~torch.isin(chosen_B, ends)).nonzero()[:, 0]
        if len(going) == 0:
            break
        if len(going) < len(left):
            cache.batch_select_indices(going)
            left, chosen_B, mask_BL, position_BL = left[going], chosen_B[going], mask_BL[going], position_BL[going]
        ids_BL, position_BL = chosen_B[:, None], position_BL[:, -1:] + 1
        mask_BL = torch.cat([mask_BL, torch.ones_like(ids_BL)], dim=1)
    found = zip(tokens_BT.tolist(), logp_BT.tolist(), strict=True)
    return [_until_stop(tokens, logp, set(stops)) for tokens, logp in found]


def _extra(bare: Any) -> dict[str, Any]:
    """Return arguments that not every model's forward takes."""
    parameters = inspect.signature(type(bare).forward).parameters
    wanted = {"logits_to_keep": 1, "position_ids": None}
    return {name: value for name, value in wanted.items() if takes(parameters, name)} | no_router_logits(bare)


def _draw(logits_BV: Tensor, temperature: float, uniform_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return (B,) tokens, and their log-probabilities at temperature 1."""
    logits_BV = logits_BV.to(torch.promote_types(logits_BV.dtype, torch.float32))
    logp_BV = logits_BV.log_softmax(dim=-1)
    if temperature == 0:
        chosen_B = logits_BV.argmax(dim=-1)
    else:
        # float64: in float32 the sum over a large vocabulary rounds rare tokens away
        mass_BV = (logits_BV / temperature).softmax(dim=-1).double().cumsum(dim=-1)
        at_B1 = (uniform_B * mass_BV[:, -1])[:, None]
        chosen_B = torch.searchsorted(mass_BV, at_B1, right=True)[:, 0].clamp(max=mass_BV.shape[1] - 1)
    return chosen_B, logp_BV.gather(1, chosen_B[:, None])[:, 0].double()


def _until_stop(tokens: list[int], logp: list[float], stops: set[int]) -> Sampled:
    written = [token for token in tokens if token >= 0]
    stop = written[-1] if written and written[-1] in stops else None
    ids = written if stop is None else written[:-1]
    return Sampled(Generated(tuple(ids), stop), tuple(logp[: len(written)]))


@torch.no_grad()
def require_samples(model: torch.nn.Module) -> None:
    """Check on two short random prompts that the loop keeps the model's own log-probabilities.

    Raises:
        ConfigError: the model is sharded over processes, its forward takes no cache of keys and values, or it gives
            other logits with one.
    """
    bare = bare_model(model)
    parameters = inspect.signature(type(bare).forward).parameters
    if any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        raise _refused(bare, "its parameters are sharded over processes")
    if not takes(parameters, "past_key_values"):
        raise _refused(bare, "its forward takes no past_key_values")
    stuck = {type(layer).__name__ for layer in DynamicCache(config=bare.config).layers if not _drops_rows(layer)}
    if stuck:
        raise _refused(bare, f"no row can leave its cache: {', '.join(sorted(stuck))}")
    prompts = [row.tolist() for row in random_rows(model, _PROBE_LENGTHS)]
    greedy = partial(
        sample_answers,
        model,
        prompts,
        width=embedding_rows(model),
        temperature=0,
        uniform_BT=torch.zeros(len(prompts), _PROBE_TOKENS, dtype=torch.float64),
    )
    # the second time the first row ends early, so that it leaves the batch
    stops = greedy(stop_ids=())[0].answer.scored_ids[1:2]
    found = greedy(stop_ids=stops)
    gap = max(_gap(model, prompt, one) for prompt, one in zip(prompts, found, strict=True))
    limit = _GAPS.get(coarsest(model, bare.device), _GAP_LOW_PRECISION)
    if not gap <= limit:
        raise _refused(bare, f"with a cache its log-probabilities differ by {gap:.2g} nats, allowed are {limit:g}")


@torch.no_grad()
def trains_with_dropout(model: torch.nn.Module) -> bool:
    """Return whether the student gives other logits in training mode than in eval mode."""
    rows, was_training = [[row] for row in random_rows(model, _PROBE_LENGTHS)], model.training
    device = bare_model(model).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        by_mode = [logits_of(model.train(mode), rows) for mode in (True, False)]
    model.train(was_training)
    return not torch.equal(*by_mode)


def _drops_rows(layer: object) -> bool:
    return hasattr(layer, "batch_select_indices")


def _gap(model: Any, prompt: list[int], sampled: Sampled) -> float:
    ids = torch.tensor([[*prompt, *sampled.answer.scored_ids]], device=bare_model(model).device)
    was_training = model.training
    model.eval()
    logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
    model.train(was_training)
    fresh = logits[:, : embedding_rows(model)].double().log_softmax(dim=-1).gather(1, ids[0, len(prompt) :, None])[:, 0]
    return float((fresh.cpu() - torch.tensor(sampled.logp, dtype=torch.float64)).abs().max())


def _refused(bare: torch.nn.Module, fact: str) -> ConfigError:
    return ConfigError(
        "The student cannot write its own answers during training.",
        facts=[f"model: {type(bare).__name__}", fact],
        fix="use answers: dataset or teacher, or a student with attention in one process",
    )

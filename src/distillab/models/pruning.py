"""A smaller model from the parts of a larger one: fewer decoder blocks, MLP channels and heads.

Which parts are kept is decided from `Importance`. Whether the smaller model is what it should be is asked of both
models: with the dropped parts switched off by hooks, the larger one must give the same logits.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from distillab.config.pruning import KeptLayers, PruningConfig
from distillab.config.student import StudentConfig
from distillab.errors import ConfigError
from distillab.library_errors import library_errors
from distillab.models.importance import Importance
from distillab.models.loading import load_config
from distillab.models.narrowing import WidthParts, width_parts
from distillab.models.probing import coarsest, distance, logits_of, random_rows
from distillab.models.structure import bare_model, config_shape, decoder_blocks
from distillab.pretrained import model_of

_PROBE_TOKENS = 8
# of the distance of two models' logits; what is left out of a sum changes how the rest is rounded
_LIMIT, _LIMIT_LOW_PRECISION = 1e-4, 3e-2
_NOT_OF_LAYERS = ("architectures", "eos_token_id")  # lists in a configuration whose length can be that of the layers


@dataclass(frozen=True)
class PrunedSizes:
    """How many parts are kept; channels and groups of each block."""

    layers: int
    channels: int | None
    groups: int | None


@dataclass(frozen=True)
class Kept:
    """The parts that are kept, ascending and counted from 0.

    Attributes:
        layers: decoder blocks.
        channels, groups: of each of these blocks; empty: all.
    """

    layers: tuple[int, ...]
    channels: tuple[tuple[int, ...], ...] = ()
    groups: tuple[tuple[int, ...], ...] = ()

    @property
    def sizes(self) -> PrunedSizes:
        """How many they are."""
        channels, groups = (len(each[0]) if each else None for each in (self.channels, self.groups))
        return PrunedSizes(len(self.layers), channels, groups)


def pruned_sizes(config: PreTrainedConfig, settings: PruningConfig) -> PrunedSizes:
    """Return how many parts of a model the settings keep; of a share the nearest number, at least 1.

    Raises:
        ConfigError: the model has not so many blocks, or the share keeps all of its parts.
    """
    blocks, groups = config_shape(config).blocks, config_shape(config).key_value_heads
    wanted = settings.keep_layers
    count = blocks if wanted is None else wanted.count if isinstance(wanted, KeptLayers) else len(wanted)
    highest = wanted[-1] + 1 if isinstance(wanted, tuple) else count
    if highest > blocks or (count == blocks and wanted is not None):
        raise _too_many("keep_layers", f"{count}, up to number {highest - 1}", f"{blocks} decoder blocks")
    channels = getattr(config, "intermediate_size", None)
    return PrunedSizes(
        count,
        _share(settings.mlp, channels, "mlp", "MLP channels"),
        _share(settings.heads, groups, "heads", "key-value heads"),
    )


def _share(share: float | None, of: Any, setting: str, what: str) -> int | None:
    if share is None:
        return None
    number = max(1, round(share * of)) if isinstance(of, int) else 0
    if not isinstance(of, int) or number >= of:
        raise _too_many(setting, str(share), f"{of} {what}")
    return number


def _too_many(setting: str, wanted: str, there: str) -> ConfigError:
    return ConfigError(
        "A student made from its teacher must be a smaller part of it.",
        where=f"student.from_teacher.{setting}",
        facts=[f"wanted: {wanted}", f"the teacher has {there}"],
        fix="keep fewer",
    )


def choose(sizes: PrunedSizes, settings: PruningConfig, importance: Importance, *, blocks: int) -> Kept:
    """Choose the parts that are kept.

    Args:
        importance: what the settings decide by, measured on the whole model.
        blocks: of the model.
    """
    wanted = settings.keep_layers
    if isinstance(wanted, tuple):
        layers = wanted
    elif wanted is None or wanted.by == "uniform":
        layers = _evenly(sizes.layers, blocks)
    elif wanted.by == "contiguous":
        reach = blocks - sizes.layers
        start = int(importance.distances[reach].argmin())
        layers = tuple(i for i in range(blocks) if not start <= i < start + reach)
    else:
        layers = _largest(importance.distances[1], sizes.layers)
    channels, groups = (
        () if count is None else tuple(_largest(scores[i], count) for i in layers)
        for count, scores in ((sizes.channels, importance.channels), (sizes.groups, importance.groups))
    )
    return Kept(layers, channels, groups)


def _evenly(count: int, blocks: int) -> tuple[int, ...]:
    """Return `count` of the blocks, evenly spaced, with the first and the last."""
    gaps = max(1, count - 1)
    return tuple((2 * place * (blocks - 1) + gaps) // (2 * gaps) for place in range(count))


def _largest(scores: Tensor, count: int) -> tuple[int, ...]:
    """Return the places of the largest scores, ascending; of equal ones the first."""
    return tuple(sorted(scores.argsort(descending=True, stable=True)[:count].tolist()))


def student_config(settings: StudentConfig) -> PreTrainedConfig:
    """Return the student's configuration; of one that is made from its teacher, with the sizes that it will have."""
    config = load_config(settings.path, revision=settings.revision)
    if settings.from_teacher is None:
        return config
    sizes = pruned_sizes(config, settings.from_teacher)
    return pruned_config(config, sizes, layers=range(sizes.layers))


def pruned_config(config: PreTrainedConfig, sizes: PrunedSizes, *, layers: Sequence[int]) -> PreTrainedConfig:
    """Return the configuration of a smaller model. Lists with an entry a block lose those of the dropped blocks.

    Raises:
        ConfigError: the architecture does not allow these sizes.
    """
    made, shape = copy.deepcopy(config), config_shape(config)
    for name, value in config.to_dict().items():
        if isinstance(value, list | tuple) and len(value) == shape.blocks and name not in _NOT_OF_LAYERS:
            setattr(made, name, [value[i] for i in layers])
    made.num_hidden_layers = len(layers)
    if sizes.channels is not None:
        made.intermediate_size = sizes.channels
    if sizes.groups is not None:
        made.num_attention_heads = sizes.groups * shape.heads // shape.key_value_heads
        made.num_key_value_heads, made.head_dim = sizes.groups, shape.head_width
    with library_errors(
        ConfigError,
        "The teacher's architecture does not allow the sizes of the student.",
        where=f"{config.model_type}: {sizes}",
        fix="keep another number of heads: in Llama, say, hidden_size must be a multiple of it",
    ):
        type(made).from_dict(made.to_dict())
    return made


def pruned_model(model: PreTrainedModel, kept: Kept) -> PreTrainedModel:
    """Make a model of copies of what is kept; embeddings, norms and head are those of `model`.

    Raises:
        ConfigError: the parts cannot be dropped one by one: blocks differ, share weights, or read their number.
    """
    widths = width_parts(model) if kept.channels or kept.groups else []
    config = pruned_config(model.config, kept.sizes, layers=kept.layers)
    state = dict(_kept_state(model, kept, widths))
    made = model_of(config, dtype=model.dtype)
    expected = {name: tensor.shape for name, tensor in made.state_dict().items()}
    if expected != {name: tensor.shape for name, tensor in state.items()}:
        differing = {*expected.items()} ^ {(name, tensor.shape) for name, tensor in state.items()}
        names = sorted({name for name, _ in differing})
        raise _not_separable(model, f"parameters that do not fit: {', '.join(names[:3])}")
    made.load_state_dict(state)
    made.generation_config = copy.deepcopy(model.generation_config)
    made = cast(PreTrainedModel, cast(torch.nn.Module, made).to(model.device)).eval()
    _require_same(model, made, kept, widths)
    return made


def _kept_state(model: PreTrainedModel, kept: Kept, widths: Sequence[WidthParts]) -> Iterator[tuple[str, Tensor]]:
    """Yield name and tensor of every parameter of the smaller model."""
    blocks = decoder_blocks(model)
    prefix = next(name for name, module in model.named_modules() if module is blocks) + "."
    for name, tensor in model.state_dict().items():
        number, _, rest = name.removeprefix(prefix).partition(".")
        if not name.startswith(prefix):
            yield name, tensor
        elif int(number) in kept.layers:
            place = kept.layers.index(int(number))
            dim, what = widths[int(number)].cuts.get(rest, (0, "")) if widths else (0, "")
            rows = _rows(kept, place, what, model)
            part = tensor if rows is None else tensor.index_select(dim, rows.to(tensor.device))
            yield f"{prefix}{place}.{rest}", part


def _rows(kept: Kept, place: int, what: str, model: PreTrainedModel) -> Tensor | None:
    """Return the kept rows of a projection; None: all."""
    shape = config_shape(model.config)
    if what == "channels" and kept.channels:
        return torch.tensor(kept.channels[place])
    if what in ("queries", "groups") and kept.groups:
        size = shape.head_width * (shape.heads // shape.key_value_heads if what == "queries" else 1)
        return (torch.tensor(kept.groups[place])[:, None] * size + torch.arange(size)).flatten()
    return None


@torch.no_grad()
def _require_same(model: PreTrainedModel, made: PreTrainedModel, kept: Kept, widths: Sequence[WidthParts]) -> None:
    (row,) = random_rows(model, [_PROBE_TOKENS])
    with _switched_off(model, kept, widths):
        expected = logits_of(model, [[row]])
    off = distance(expected, logits_of(made, [[row]]))
    precise = coarsest(model, model.device) in (torch.float32, torch.float64)
    if not off <= (_LIMIT if precise else _LIMIT_LOW_PRECISION):
        raise _not_separable(model, f"the logits differ by {off:.2g} of their standard deviation")


@contextmanager
def _switched_off(model: PreTrainedModel, kept: Kept, widths: Sequence[WidthParts]) -> Iterator[None]:
    """Let every dropped block give what it reads, and every dropped channel and head give zero."""
    blocks = decoder_blocks(model)
    with ExitStack() as stack:
        for number in set(range(len(blocks))) - set(kept.layers):
            stack.callback(blocks[number].register_forward_hook(_gives_input, with_kwargs=True).remove)
        for place, number in enumerate(kept.layers if widths else ()):
            parts = widths[number]
            for module, what in ((parts.down, "channels"), (parts.output, "queries")):
                rows = _rows(kept, place, what, model)
                if rows is not None:
                    stack.callback(module.register_forward_pre_hook(partial(_reads_only, rows)).remove)
        yield


def _gives_input(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    read = args[0] if args else kwargs["hidden_states"]
    return read if isinstance(output, Tensor) else (read, *output[1:])


def _reads_only(rows: Tensor, module: torch.nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
    kept = torch.zeros_like(args[0])
    kept[..., rows] = args[0][..., rows]
    return (kept,)


def _not_separable(model: PreTrainedModel, fact: str) -> ConfigError:
    return ConfigError(
        "No smaller model can be made of parts of this one: what is left does not work as it did in the whole.",
        where=type(bare_model(model)).__name__,
        facts=[fact],
        fix="use a model whose decoder blocks are alike and independent of their number (Llama, Mistral, Qwen, GPT-2)",
    )

"""Generate in batches, in the same way for teachers that answer and for students that are evaluated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from distillab.errors import ConfigError
from distillab.models.loading import context_length
from distillab.models.padding import reads_left_padding
from distillab.processes import ONE_PROCESS, Processes


@dataclass(frozen=True)
class Decoding:
    """Settings of decoding. Greedy unless `sample`."""

    max_new_tokens: int
    sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0


@dataclass(frozen=True)
class Generated:
    """One continuation: its tokens without the stop token, and the stop token; None: cut at max_new_tokens."""

    ids: tuple[int, ...]
    stop_id: int | None

    @property
    def stopped(self) -> bool:
        """Whether it ended with a stop token."""
        return self.stop_id is not None

    @property
    def scored_ids(self) -> tuple[int, ...]:
        """Every token that the model chose: with the one that ended the answer."""
        return self.ids if self.stop_id is None else (*self.ids, self.stop_id)


@dataclass(frozen=True)
class GeneratedText:
    """An answer of a source that gives text alone.

    Attributes:
        text: without the reasoning. May be empty.
        reasoning: that was given apart; "" if none.
        finish: "stop"; "length", cut at max_new_tokens; "filtered" by the source, or refused by the model in a field of
            its own; "refused", the source did not answer the prompt.
    """

    text: str
    reasoning: str
    finish: Literal["stop", "length", "filtered", "refused"]


def all_stop_ids(model: PreTrainedModel, stop_ids: Sequence[int]) -> list[int]:
    """Return every id that ends an answer: those given, and those of the model's generation config."""
    configured = model.generation_config.eos_token_id if model.generation_config is not None else None
    listed = configured if isinstance(configured, list) else [configured]
    return sorted({*stop_ids, *(int(i) for i in listed if i is not None)})


def generate_batches(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    decoding: Decoding,
    stop_ids: Sequence[int],
    batch_size: int,
    processes: Processes = ONE_PROCESS,
) -> Iterator[list[Generated]]:
    """Continue each prompt, batch by batch, in the order given (left-padded, eval mode, no gradients).

    Every setting is in `decoding`: only the stop ids of the model's generation config are used, so a repetition
    penalty or a sampling default that comes with a model cannot change what is measured. A model
    that reads padding gives the same answers for any batch size too.

    Args:
        processes: that all make this call; each answers a part of the batches, and has the answers of all.
    """
    was_training = model.training
    model.eval()
    stops = all_stop_ids(model, stop_ids)
    # top_k=0 turns off the library's own default of 50
    config = GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        do_sample=decoding.sample,
        temperature=decoding.temperature if decoding.sample else None,
        top_p=decoding.top_p if decoding.sample else None,
        top_k=0 if decoding.sample else None,
        eos_token_id=stops,
        pad_token_id=stops[0],
        use_cache=True,
    )
    # such a model gets one prompt at a time
    together = 1 if len(prompts) > 1 and reads_left_padding(model) else batch_size
    try:
        for number, counts in processes.dealt(-(-len(prompts) // batch_size)):
            batch = prompts[number * batch_size : (number + 1) * batch_size]
            answers = [
                answer
                for first in range(0, len(batch), together)
                for answer in _one_batch(model, batch[first : first + together], config, stops[0], set(stops))
            ]
            yield _joined(answers if counts else [], processes)
    finally:
        model.train(was_training)


def _joined(answers: list[Generated], processes: Processes) -> list[Generated]:
    """Return the answers of all processes, in their order."""
    if processes.count == 1:
        return answers
    # each as its length, its stop token or -1, and its ids
    none = -1
    flat = [
        value
        for answer in answers
        for value in (len(answer.ids), none if answer.stop_id is None else answer.stop_id, *answer.ids)
    ]
    values = iter(processes.joined(torch.tensor(flat, dtype=torch.long)).tolist())
    found = []
    for length in values:
        stop_id = next(values)
        found.append(Generated(tuple(islice(values, length)), None if stop_id == none else stop_id))
    return found


@torch.no_grad()
def _one_batch(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], config: GenerationConfig, pad_id: int, stops: set[int]
) -> list[Generated]:
    width = max(len(prompt) for prompt in prompts)
    input_ids = torch.full((len(prompts), width), pad_id, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, width - len(prompt) :] = torch.tensor(prompt)
        attention_mask[row, width - len(prompt) :] = 1
    generator: Any = model  # torch types every attribute of a module as a tensor
    with _without_own_config(model):
        output = generator.generate(
            input_ids=input_ids.to(model.device),
            attention_mask=attention_mask.to(model.device),
            generation_config=config,
            **no_router_logits(model),
        )
    return [_until_stop(ids, stops) for ids in output[:, width:].tolist()]


def no_router_logits(model: PreTrainedModel) -> dict[str, bool]:
    """Keep a mixture of experts from its balancing loss, which transformers computes over prompt and cache wrongly."""
    return {"output_router_logits": False} if getattr(model.config, "output_router_logits", False) else {}


@contextmanager
def _without_own_config(model: PreTrainedModel) -> Iterator[None]:
    """Let `generate` use only the settings that it is called with, inside of the block.

    transformers fills every field that the given config leaves unset from the model's own generation config.
    """
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def _until_stop(ids: list[int], stops: set[int]) -> Generated:
    for place, token in enumerate(ids):
        if token in stops:
            return Generated(tuple(ids[:place]), stop_id=token)
    return Generated(tuple(ids), stop_id=None)


def require_room(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], max_new_tokens: int, *, setting: str
) -> None:
    """Check that the longest prompt and its answer fit into the model's context.

    Args:
        setting: the recipe's key of max_new_tokens, for the message.
    Raises:
        ConfigError: they do not.
    """
    context = context_length(model.config)
    longest = max(len(prompt) for prompt in prompts)
    if context is not None and longest + max_new_tokens > context:
        raise ConfigError(
            f"The longest prompt and {setting} do not fit into the model's context.",
            facts=[f"longest prompt {longest} tokens", f"max_new_tokens {max_new_tokens}", f"context {context}"],
            fix=f"lower {setting} or data.max_tokens",
        )


def continuation_text(
    tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int], ids: Sequence[int], *, special_tokens: bool = False
) -> str:
    """Return the text that `ids` add after the prompt.

    Both are decoded together and the prompt's text is cut off, because many tokenizers drop the leading
    space of whatever they decode first.

    Args:
        special_tokens: spell special tokens out; otherwise they are no text.
    """
    before = _decode(tokenizer, list(prompt_ids), special_tokens)
    whole = _decode(tokenizer, [*prompt_ids, *ids], special_tokens)
    # a prompt that ends within a character decodes to a replacement sign that the answer then completes
    return whole[len(before) :] if whole.startswith(before) else _decode(tokenizer, list(ids), special_tokens)


def _decode(tokenizer: PreTrainedTokenizerBase, ids: list[int], special_tokens: bool) -> str:
    text = tokenizer.decode(ids, skip_special_tokens=not special_tokens, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text

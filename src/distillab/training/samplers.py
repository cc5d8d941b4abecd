"""Who writes the student's answers during training, and whether it has the student's weights.

Shapes: B prompts, T new tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, cast

import torch
from torch import Tensor
from transformers import ContinuousBatchingConfig, GenerationConfig

from distillab.errors import ConfigError, NumericsError
from distillab.models.generation import Generated, all_stop_ids
from distillab.models.rollout import Sampled, sample_answers
from distillab.models.structure import bare_model

ALLOWED_GAP = 0.02  # nats
_PAGE = 32  # tokens
_FEW_TOKENS, _MANY_TOKENS = 256, 8192  # read in one pass


class Sampler(Protocol):
    """Writes answers with the student's weights.

    Attributes:
        name: in messages.
        width: its log-probabilities are those among the first so many ids.
        remedy: what to do if they are not the student's.
    """

    name: ClassVar[str]
    remedy: ClassVar[str]

    @property
    def width(self) -> int:
        """See the class."""
        ...

    def sample(self, model: torch.nn.Module, prompts: Sequence[Sequence[int]], uniform_BT: Tensor) -> list[Sampled]:
        """Continue each prompt by at most T tokens.

        Args:
            model: the student as it is now.
            prompts: ids; at least one prompt, and one id each.
            uniform_BT: (B, T) float64 numbers in [0, 1), from which all that is random follows.
        """
        ...


@dataclass(frozen=True)
class LocalSampler:
    """The loop of this process: see `sample_answers`."""

    name: ClassVar[str] = "local"
    remedy: ClassVar[str] = "set training.precision: float32; if it is, report this"

    stop_ids: tuple[int, ...]
    width: int
    temperature: float

    def sample(self, model: torch.nn.Module, prompts: Sequence[Sequence[int]], uniform_BT: Tensor) -> list[Sampled]:
        """Continue each prompt; the same numbers give the same answers."""
        return sample_answers(
            model,
            prompts,
            stop_ids=self.stop_ids,
            width=self.width,
            temperature=self.temperature,
            uniform_BT=uniform_BT,
        )


@dataclass(frozen=True)
class ContinuousBatching:
    """`generate_batch` of transformers: a finished answer leaves its place to the next prompt.

    Args:
        stop_ids: as of `sample_answers`.
        width: rows of the student's head, all of which may be written.
        greedy: write the most likely token; otherwise draw at temperature 1.
    """

    name: ClassVar[str] = "continuous_batching"
    remedy: ClassVar[str] = "use sampler: local"

    stop_ids: tuple[int, ...]
    width: int
    greedy: bool

    def sample(self, model: torch.nn.Module, prompts: Sequence[Sequence[int]], uniform_BT: Tensor) -> list[Sampled]:
        """Continue each prompt; the seed of all draws is from the first number.

        Raises:
            ConfigError: transformers cannot do it for this model.
        """
        bare, longest = bare_model(model), uniform_BT.shape[1]
        stops = all_stop_ids(bare, self.stop_ids)
        config = GenerationConfig(
            max_new_tokens=longest,
            do_sample=not self.greedy,
            eos_token_id=stops,
            pad_token_id=stops[0],
            **({} if self.greedy else {"temperature": 1.0, "top_p": 1.0, "top_k": 0}),
        )
        batching = ContinuousBatchingConfig(
            page_size=_PAGE,
            num_blocks=sum(-(-(len(prompt) + longest) // _PAGE) + 1 for prompt in prompts),
            max_batch_tokens=min(max(sum(map(len, prompts)), _FEW_TOKENS), _MANY_TOKENS),
            return_logprobs=True,
            use_cuda_graph=False,
            allow_block_sharing=False,
            seed=int(uniform_BT[0, 0] * 2**31),
        )
        was_training, generator = model.training, cast(Any, bare)
        model.eval()
        try:
            found = generator.generate_batch(
                [list(prompt) for prompt in prompts], config, batching, warmup=False
            ).values()
        finally:
            model.train(was_training)
        failed = [str(one.error) for one in found if one.error is not None]
        if failed or len(found) < len(prompts):
            raise ConfigError(
                "transformers' continuous batching wrote no answer to some prompts.",
                where="answers.sampler: continuous_batching",
                facts=[f"model: {type(bare).__name__}", f"prompts {len(prompts)}, answers {len(found)}", *failed[:3]],
                fix=self.remedy,
            )
        return [_sampled(one.generated_tokens, one.logprobs, stops) for one in found]


def _sampled(ids: list[int], logp: list[float], stops: Sequence[int]) -> Sampled:
    stopped = ids[-1] in stops
    return Sampled(Generated(tuple(ids[:-1] if stopped else ids), ids[-1] if stopped else None), tuple(logp))


def require_small_gap(gap: float, sampler: Sampler, *, step: int) -> None:
    """Check that a sampler computes with the student's weights.

    Args:
        gap: mean |log-probability by the sampler − by the forward pass that trains|, over the tokens of a step.
    Raises:
        NumericsError: it is above 0.02 nats.
    """
    if not gap <= ALLOWED_GAP:
        raise NumericsError(
            "The sampler does not have the student's weights, or computes otherwise, so training stopped.",
            where=f"step {step}, answers.sampler: {sampler.name}",
            facts=[
                f"the log-probability of a written token differs by {gap:.3g} nats on average, allowed {ALLOWED_GAP:g}"
            ],
            fix=sampler.remedy,
        )

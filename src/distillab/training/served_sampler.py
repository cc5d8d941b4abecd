"""Let a vLLM server write the student's answers: it reads the student's weights from a folder before each rollout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import msgspec
import torch
from torch import Tensor

from distillab.config.on_policy import ServedSamplerConfig
from distillab.files import new_folder, require_space
from distillab.models.generation import Decoding, all_stop_ids
from distillab.models.rollout import Sampled
from distillab.models.structure import bare_model
from distillab.teachers.protocol import Prompt, Sampling
from distillab.teachers.served.client import Client
from distillab.teachers.served.dialects.vllm import Vllm
from distillab.teachers.served.errors import RowFailed, ServerError
from distillab.teachers.served.exchange import Call, Reading, Usage, decoded

_SEEDS = 2**31


class _Reset(msgspec.Struct):
    success: bool


@dataclass
class ServedSampler:
    """A vLLM server in development mode. Its draws are not the same in a repeated run.

    Args:
        settings: of the recipe.
        stop_ids: ids that end an answer, in addition to those of the student's generation config.
        shared: the first so many ids may be written.
        width: rows of the student's head; all of them have a probability.
        temperature: of the draws.
    """

    name: ClassVar[str] = "a vLLM server"
    remedy: ClassVar[str] = (
        "serve the student's weights in their own type (--dtype float32), without quantisation; on a CPU vLLM keeps "
        "the old head of a model whose head is tied to its embeddings"
    )

    settings: ServedSamplerConfig
    stop_ids: tuple[int, ...]
    shared: int
    width: int
    temperature: float
    _client: Client = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._client = Client(self.settings.server, None, tokenizer="")

    def sample(self, model: torch.nn.Module, prompts: Sequence[Sequence[int]], uniform_BT: Tensor) -> list[Sampled]:
        """Give the server the weights, and continue each prompt; the seed of an answer is from its first number.

        Raises:
            ServerError: the server takes no weights, or gives no answer that can be used.
        """
        self._give(model)
        dialect, sampled = Vllm(self.settings.server.model), self.temperature > 0
        decoding = Decoding(uniform_BT.shape[1], sampled, self.temperature)
        stops = tuple(all_stop_ids(bare_model(model), self.stop_ids))
        seeds = (uniform_BT[:, 0] * _SEEDS).long().tolist()

        def one(number: int) -> Sampled:
            prompt, sampling = Prompt(str(number), tuple(prompts[number])), Sampling(decoding, stops, seeds[number])
            return self._client.ask(*dialect.drawn_call(prompt, sampling, barred=range(self.shared, self.width)))

        found = [answer for _, answer in self._client.each(range(len(prompts)), one, failed_rows=0.0)]
        return [answer for answer in found if isinstance(answer, Sampled)]  # a failed one has been raised

    def _give(self, model: torch.nn.Module) -> None:
        bare, folder = bare_model(model), Path(self.settings.folder).absolute() / "student"
        size = sum(parameter.numel() * parameter.element_size() for parameter in bare.parameters())
        require_space(folder.parent, size, what="the weights for the sampler")
        with new_folder(folder, replace=True) as made:
            bare.save_pretrained(made)
        load = Call("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}})
        try:
            self._client.ask(load, lambda content: Reading(content, Usage(), None))
            # keys and values of the old weights
            reset = self._client.ask(Call("/reset_prefix_cache", {}), _read_reset)
        except (ServerError, RowFailed) as error:
            raise self._refused(error.facts, folder) from error
        if not reset.success:
            raise self._refused(["it did not empty its cache of keys and values"], folder)

    def _refused(self, facts: Sequence[str], folder: Path) -> ServerError:
        return ServerError(
            "The server that writes the student's answers did not take its weights.",
            where=self.settings.server.url,
            facts=list(facts),
            fix=f"start vLLM with VLLM_SERVER_DEV_MODE=1 where it can read {folder}, on a model with the student's "
            "configuration, for this run alone",
        )


def _read_reset(content: bytes) -> Reading[_Reset]:
    return Reading(decoded(content, _Reset, where="/reset_prefix_cache"), Usage(), None)

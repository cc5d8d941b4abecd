"""llama.cpp's own server with the small Mistral-tokenised model of the materials, in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from tests.gguf_files import write_sentencepiece_gguf
from tests.processes import Forked, wait_for


@dataclass(frozen=True)
class SmallMistral:
    """The model as transformers runs it, in float32."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast

    @torch.no_grad()
    def logp(self, ids: list[int]) -> Tensor:
        """(L, V) float64 log-probabilities; row t is of the token at t + 1."""
        return self.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)


@pytest.fixture(scope="session")
def small_mistral(materials: Path) -> SmallMistral:
    folder = materials / "models" / "smallmistral-stories"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return SmallMistral(model, AutoTokenizer.from_pretrained(folder))


@contextmanager
def llama_cpp(model: Path, folder: Path) -> Iterator[str]:
    """The address of llama.cpp's server with a model, started by the script that users have; it is left in a folder."""
    address = folder / "server.address"
    process = Forked("scripts.serve", str(model), "--port", "0", "--address", str(address))
    try:
        wait_for(process, address.exists)
        yield address.read_text()
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def tiny_server(tiny_world: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of the tiny world's teacher."""
    with llama_cpp(Path(tiny_world["teacher"]["path"]), tmp_path_factory.mktemp("tiny_server")) as address:
        yield address


@pytest.fixture(scope="session")
def stories_server(materials: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of a trained model with few tokens: a request takes a hundredth of `llama_server`'s."""
    with llama_cpp(materials / "models" / "stories260K-tok512", tmp_path_factory.mktemp("stories_server")) as address:
        yield address


@pytest.fixture(scope="session")
def llama_server(small_mistral: SmallMistral, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the server."""
    folder = tmp_path_factory.mktemp("llama_server")
    file = folder / "small.gguf"
    write_sentencepiece_gguf(file, small_mistral.model, small_mistral.tokenizer.backend_tokenizer)  # type: ignore[arg-type]
    with llama_cpp(file, folder) as address:
        yield address

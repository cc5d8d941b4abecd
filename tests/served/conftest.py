"""llama.cpp's own server with the small Mistral-tokenised model of the materials, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from tests.gguf_files import write_sentencepiece_gguf
from tests.processes import ROOT, wait_for


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
def llama_cpp(model: Path, log: Path) -> Iterator[str]:
    """The address of llama.cpp's server with a model, started by the script that users have."""
    address = log.with_suffix(".address")
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "scripts/serve.py", str(model), "--port", "0", "--address", str(address)],
            cwd=ROOT,
            stdout=stream,
            stderr=stream,
            text=True,
        )
    try:
        wait_for(process, address.exists)
        yield address.read_text()
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def llama_server(small_mistral: SmallMistral, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the server."""
    folder = tmp_path_factory.mktemp("llama_server")
    file = folder / "small.gguf"
    write_sentencepiece_gguf(file, small_mistral.model, small_mistral.tokenizer.backend_tokenizer)  # type: ignore[arg-type]
    with llama_cpp(file, folder / "log") as address:
        yield address

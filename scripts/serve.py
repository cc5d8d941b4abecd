"""Serve a small Llama by llama.cpp's own server, on 127.0.0.1, until it is stopped.

    python scripts/serve.py demo-output/teacher/student             a folder: written as GGUF (float32) first
    python scripts/serve.py model.gguf --port 8080 --slots 2        a file

Needs the packages xllamacpp and gguf. What a folder can have: docs/export.md, GGUF.
"""

from __future__ import annotations

import argparse
import socket
import tempfile
import time
from pathlib import Path

import xllamacpp
from transformers import AutoModelForCausalLM

from distillab.export.gguf_file import write_gguf
from distillab.pairing.loading import load_tokenizer


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def exported(folder: Path, file: Path) -> Path:
    """Write the model in a folder as a GGUF file, and return the file."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    tokenizer = load_tokenizer(str(folder)).tokenizer
    begins = tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
    stop = int(tokenizer.eos_token_id)
    write_gguf(file, model, tokenizer, dtype="f32", stop_ids=[stop], adds_bos=begins, name=folder.name, ids_alone=True)
    return file


def main() -> None:
    """Start the server, print its address, and wait."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("model", type=Path, help="folder of a model, or a GGUF file")
    options.add_argument("--port", type=int, default=8080, help="0: any that is free")
    options.add_argument("--slots", type=int, default=2, help="requests at once")
    options.add_argument("--address", type=Path, help="file into which the address is written when it listens")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="serve-") as made:
        params = xllamacpp.CommonParams()
        params.model.path = str(
            exported(given.model, Path(made) / "model.gguf") if given.model.is_dir() else given.model
        )
        params.model_alias = {given.model.resolve().name}
        params.port = given.port or free_port()
        params.n_ctx = 512 * given.slots
        params.n_parallel = given.slots
        params.warmup = False
        params.cpuparams.n_threads = 1
        params.cpuparams_batch.n_threads = 1
        server = xllamacpp.Server(params)
        print(server.listening_address, flush=True)
        if given.address is not None:
            written = given.address.with_suffix(".new")
            written.write_text(server.listening_address)
            written.rename(given.address)
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main()

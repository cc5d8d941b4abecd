"""llama.cpp's own server in a process of its own: `python -m tests.served.llama_server FILE.gguf PORT_FILE`.

It listens on a free port of 127.0.0.1, writes the address into PORT_FILE, and runs until it is killed.
"""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path

import xllamacpp


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main(model: str, port_file: str) -> None:
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.port = free_port()
    params.n_ctx = 1024
    params.n_parallel = 2
    params.warmup = False
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    written = Path(port_file + ".new")
    written.write_text(server.listening_address)
    written.rename(port_file)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main(*sys.argv[1:])

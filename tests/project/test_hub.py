"""A hub that does not answer is said once, and only what was fetched before is used."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

ASK = """
import sys, time
slept, sleep = [], time.sleep
time.sleep = lambda seconds: (slept.append(seconds), sleep(seconds))
from distillab.config.data import SourceConfig
from distillab.data.sources import read_rows
from distillab.errors import DistillabError
from distillab.pairing.loading import find_file
for ask in (
    lambda: find_file("nobody/no-model", "tokenizer.json", None),
    lambda: find_file("nobody/no-model", "config.json", None),
    lambda: read_rows(SourceConfig(path="nobody/no-rows")),
):
    try:
        ask()
    except DistillabError as error:
        print(error)
print("slept", sum(slept), "s")
"""


@pytest.mark.slow
def test_a_hub_id_without_a_hub_is_an_error_at_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each of the three took 20 seconds of retries, without a word."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    gone = {name for name in os.environ if name.lower().endswith("_proxy")} | {"HF_HUB_OFFLINE"}
    environment = {name: value for name, value in os.environ.items() if name not in gone}
    environment |= {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(tmp_path_factory.mktemp("hub"))}
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("nobody/no-model") >= 2 and "nobody/no-rows" in done.stdout
    assert done.stderr.count("does not answer") == 1
    assert done.stdout.endswith("slept 0 s\n"), done.stdout

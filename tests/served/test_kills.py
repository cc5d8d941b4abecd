"""kill -9 at ten instants, while a server scores and while it answers: nothing is asked twice, no result changes."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distillab.teachers.served.journal import paid_in
from tests.processes import Forked, wait_for
from tests.served import asks
from tests.served.faulty_server import FaultyServer, serving

AT_ONCE = 4
INSTANTS = range(3, 58, 6)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with serving(FaultyServer(paths=("/v1/completions", "/v1/chat/completions"), busy_s=0.02)) as app:
        yield app


def printed(server: FaultyServer, kind: str, folder: Path, tokenizer: str) -> str:
    out, err = Forked("tests.served.asks", kind, server.url, str(folder), tokenizer).communicate()
    assert out, err[-2000:]
    return out.strip()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["score", "answer"])
def test_a_killed_process_pays_for_nothing_twice(
    kind: str, server: FaultyServer, tmp_path: Path, tiny_world: dict[str, Any]
) -> None:
    tokenizer = tiny_world["teacher"]["path"]
    whole = printed(server, kind, tmp_path / "whole", tokenizer)
    rows = {json.dumps(request) for request in server.asked}
    assert len(rows) == len(server.asked) == asks.ROWS
    server.asked.clear()
    for instant in INSTANTS:
        process = Forked("tests.served.asks", kind, server.url, str(tmp_path / "killed"), tokenizer)
        wait_for(process, lambda wanted=instant: len(set(map(json.dumps, server.asked))) >= wanted)  # type: ignore[misc]
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert printed(server, kind, tmp_path / "killed", tokenizer) == whole
    asked = [json.dumps(request) for request in server.asked]
    # what was on its way when the process died was not answered
    assert set(asked) == rows and len(asked) <= asks.ROWS + AT_ONCE * len(INSTANTS)
    where = tmp_path / "killed" / ("" if kind == "score" else "served")
    before = len(asked)
    assert printed(server, kind, tmp_path / "killed", tokenizer) == whole and len(server.asked) == before
    # every answer is counted once, in whichever start it was paid
    assert paid_in(where).requests == asks.ROWS

"""Rows in an S3-compatible store on loopback: read, kept, read anew after a change; credentials are not written."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from distillab.config.data import SourceConfig
from distillab.data import row_table
from distillab.data.row_table import Reading, read_table

SECRET = "test-only-secret"
URL = "s3://rows/parts/*.jsonl"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/reset", data=b"").close()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    store = fsspec.filesystem("s3")
    store.mkdir("rows")
    yield store
    server.stop()


def put(store: Any, name: str, prompts: list[str]) -> None:
    rows = [{"prompt": prompt, "answer": "a"} for prompt in prompts]
    store.pipe_file(f"rows/parts/{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())


def test_rows_of_a_bucket(bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILLAB_CACHE", str(tmp_path / "store"))
    monkeypatch.setattr(row_table, "_SMALLEST_STORED_BYTES", 0)
    put(bucket, "b", ["three"])
    put(bucket, "a", ["one", "two"])

    def read() -> list[tuple[str, str]]:
        return [(one.prompt, one.origin) for one in read_table(SourceConfig(path=URL), Reading(0.5)).examples]

    expected = [("one", "a.jsonl:1"), ("two", "a.jsonl:2"), ("three", "b.jsonl:1")]
    assert read() == read() == [(prompt, f"s3://rows/parts/{place}") for prompt, place in expected]
    assert len(list(tmp_path.glob("store/rows/*/facts.json"))) == 1
    put(bucket, "b", ["other"])
    assert read()[-1][0] == "other"
    kept = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(kept) > 4
    assert not any(SECRET.encode() in file.read_bytes() for file in kept)

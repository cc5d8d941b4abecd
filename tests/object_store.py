"""A real S3-compatible server on loopback, with one empty bucket; it can hold an upload until a test lets it go on."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
import pytest

SECRET = "test-only"


class Held:
    """The first upload whose path has these words waits here.

    Attributes:
        arrived: set when it is here.
        goes_on: lets it go on.
    """

    def __init__(self, words: str) -> None:
        self.words = words
        self.arrived, self.goes_on = threading.Event(), threading.Event()

    def around(self, application: Any) -> Any:
        def answered(environ: dict[str, Any], start: Any) -> Any:
            if environ["REQUEST_METHOD"] == "PUT" and self.words in environ["PATH_INFO"] and not self.arrived.is_set():
                self.arrived.set()
                self.goes_on.wait(120)
            return application(environ, start)

        return answered


@contextmanager
def object_store(patch: pytest.MonkeyPatch, held: Held | None = None) -> Iterator[Any]:
    """Start it, and let fsspec's s3:// mean it, also in programs that are started; gives fsspec's file system of it."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    if held is not None:
        server._server.app = held.around(server._server.app)
    address = "http://{}:{}".format(*server.get_host_and_port())
    # its buckets are the process's and not the server's
    urllib.request.urlopen(f"{address}/moto-api/reset", data=b"").close()
    patch.setenv("AWS_ENDPOINT_URL", address)
    patch.setenv("AWS_ACCESS_KEY_ID", "test")
    patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    store = fsspec.filesystem("s3")
    store.mkdir("bucket")
    yield store
    if held is not None:
        held.goes_on.set()
    server.stop()

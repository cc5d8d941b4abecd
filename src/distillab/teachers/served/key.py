"""The key of a server: from an environment variable into the header of each request, and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Callable

import httpx2

from distillab.errors import ConfigError

_SHORTEST_KEY = 8  # a shorter value is not redacted (see `redaction`)


def authorisation(key: str | None) -> Callable[[httpx2.Request], httpx2.Request]:
    """Return what adds the key to a request; without a key, nothing is added."""

    def auth(request: httpx2.Request) -> httpx2.Request:
        if key is not None:
            request.headers["Authorization"] = f"Bearer {key}"
        return request

    return auth


def read_key(name: str | None) -> str | None:
    """Return the value of an environment variable; None where no variable is named.

    Raises:
        ConfigError: it is not set, or too short to be redacted.
    """
    if name is None:
        return None
    key = os.environ.get(name, "")
    if len(key) < _SHORTEST_KEY or not key.isascii() or not key.isprintable():
        raise ConfigError(
            "The key of the server is not in the environment.",
            where=f"teacher.server.api_key_env: {name}",
            facts=[
                "the variable is not set" if not key else f"its value is no key of {_SHORTEST_KEY} characters or more"
            ],
            fix=f"export {name}=… before the command",
        )
    return key

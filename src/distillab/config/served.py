"""The settings of a server that holds a teacher."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from distillab.config.base import Settings
from distillab.redaction import has_password, is_secret, secrets_in

Dialect = Literal["auto", "llama_cpp", "vllm", "sglang", "openai_chat"]
_FIXED = frozenset({"messages", "model", "n", "seed", "stream"})
_SECRET_NAMES = "TOKEN, KEY, SECRET or PASSWORD"


class PricesConfig(Settings):
    """Prices of a million tokens, as the server counts them, in any one currency."""

    prompt: float = Field(ge=0, description="of prompt tokens")
    cached: float | None = Field(
        default=None, ge=0, description="of prompt tokens that the server kept; default: prompt"
    )
    completion: float = Field(ge=0, description="of generated tokens")

    def of(self, *, prompt: int, cached: int, completion: int) -> float:
        """Return the price of tokens; `cached` are among `prompt`.

        >>> PricesConfig(prompt=2, cached=1, completion=8).of(prompt=1_000_000, cached=500_000, completion=250_000)
        3.5
        """
        kept = self.prompt if self.cached is None else self.cached
        return ((prompt - cached) * self.prompt + cached * kept + completion * self.completion) / 1e6


class ServerConfig(Settings):
    """A server, the form of its requests, and the limits that the client keeps."""

    no_effect_on_results: ClassVar[frozenset[str]] = frozenset(
        {"concurrency", "timeout_s", "tries", "prices", "max_cost"}
    )
    url: str = Field(description="address without a path of an API, as http://127.0.0.1:8080; a base path is kept")
    dialect: Dialect = Field(
        default="auto",
        description="form of the requests: llama_cpp, vllm, sglang (they score text), openai_chat (text alone); auto: "
        "the server is asked",
    )
    model: str | None = Field(default=None, min_length=1, description="the name by which the server has the model")
    api_key_env: str | None = Field(
        default=None, description=f"environment variable with the key; its name has {_SECRET_NAMES}, so it is redacted"
    )
    k: int = Field(default=16, ge=1, description="most likely tokens asked for at each position")
    concurrency: int = Field(default=4, ge=1, le=256, description="most requests at once")
    timeout_s: float = Field(default=300.0, gt=0, description="longest time of one request, to its last byte")
    tries: int = Field(default=6, ge=1, description="of one request, the first one included")
    fields: dict[str, str | int | float | bool | None] = Field(
        default={},
        description="further fields of openai_chat's requests for answers, as {reasoning_effort: low}; null leaves one "
        "out, as {max_tokens: null, max_completion_tokens: 256}",
    )
    prices: PricesConfig | None = Field(default=None, description="of a million tokens; none are built in")
    max_cost: float | None = Field(
        default=None, gt=0, description="stop before more is spent, over all starts; what was answered is kept"
    )

    @field_validator("url")
    @classmethod
    def _an_address(cls, url: str) -> str:
        if not re.match(r"https?://[^/]", url):
            raise ValueError(f'"{url}" is no http:// or https:// address')
        if has_password(url):
            raise ValueError("an address is kept in records: remove user:password@ and use api_key_env")
        if "?" in url or "#" in url:
            raise ValueError("the address of a server has no ? and no #; a key belongs into api_key_env")
        return url.rstrip("/").removesuffix("/v1")

    @field_validator("api_key_env")
    @classmethod
    def _named_as_a_secret(cls, name: str | None) -> str | None:
        if name is not None and not is_secret(name):
            raise ValueError(f'the value of "{name}" would not be redacted: use a name with {_SECRET_NAMES}')
        return name

    @field_validator("fields")
    @classmethod
    def _only_settings_of_answers(cls, fields: dict[str, Any]) -> dict[str, Any]:
        if fixed := sorted(_FIXED & fields.keys()):
            raise ValueError(f"{', '.join(fixed)}: cannot be set, the client sets it")
        if any(isinstance(value, str) and secrets_in(value) for value in fields.values()):
            raise ValueError("the value of a secret would be written to files")
        return fields

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> ServerConfig:
        if self.fields and self.dialect not in ("auto", "openai_chat"):
            raise ValueError(f"fields have no effect in server.dialect {self.dialect}")
        if self.max_cost is not None and self.prices is None:
            raise ValueError("max_cost needs prices: {prompt: …, completion: …} of a million tokens")
        return self

    @property
    def identity_sha256(self) -> str:
        """Stands for the hash of the weights, which cannot be read: over the address, the model's name and `fields`."""
        facts = ["served", self.url, self.model, *([self.fields] if self.fields else [])]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

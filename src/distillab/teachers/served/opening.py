"""Open the teacher of a recipe that is behind a server."""

from __future__ import annotations

from pathlib import Path

import torch

from distillab.config.served import ServerConfig
from distillab.config.teacher import TeacherConfig
from distillab.errors import ConfigError
from distillab.pairing.loading import LoadedTokenizer
from distillab.teachers.served.client import Client
from distillab.teachers.served.dialects.dialect import ScoringDialect
from distillab.teachers.served.dialects.llama_cpp import LlamaCpp
from distillab.teachers.served.dialects.vllm import Vllm
from distillab.teachers.served.journal import AnswerJournal
from distillab.teachers.served.teacher import ServedTeacher
from distillab.teachers.spec import teacher_name


def open_served(
    settings: TeacherConfig,
    folder: Path,
    *,
    tokens: LoadedTokenizer,
    fingerprint: str,
    width: int,
    template_sha256: str,
    device: torch.device,
) -> ServedTeacher:
    """Return the teacher; nothing is asked before its first signal.

    Args:
        folder: where the server's answers are stored.
        tokens: the tokenizer that makes its ids. fingerprint: of it.
        width: ids of its distributions. template_sha256: of the template by which it reads rows.
        device: of its signal.
    Raises:
        ConfigError: the server scores no text, or its key is not in the environment.
        CacheMismatch: another process asks it for answers into the same folder.
    """
    server = settings.server
    if server is None:
        raise ConfigError("The recipe names no server.", where="teacher.server")
    client = Client(server, AnswerJournal(folder), tokenizer=fingerprint)
    name = teacher_name(settings)
    return ServedTeacher(
        client,
        scoring_dialect(server, tokens),
        width=width,
        name=name,
        template_sha256=template_sha256,
        device=device,
    )


def scoring_dialect(server: ServerConfig, tokens: LoadedTokenizer) -> ScoringDialect:
    """Return how the server is asked to score text.

    Args:
        tokens: the tokenizer that makes the ids.
    Raises:
        ConfigError: it scores no text, or vLLM's model has no name.
    """
    if server.dialect == "llama_cpp":
        return LlamaCpp(tokens.meanings, server.model)
    if server.dialect == "vllm" and server.model is not None:
        return Vllm(server.model)
    raise ConfigError(
        "The server scores no text.",
        where=server.url,
        facts=[f"dialect {server.dialect}, model {server.model}"],
        fix="dialect llama_cpp, or vllm with the name of its model",
    )

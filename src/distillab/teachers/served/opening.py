"""Open the teacher of a recipe that is behind a server."""

from __future__ import annotations

from pathlib import Path

import torch

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
        ConfigError: the settings name no server that scores text, or its key is not in the environment.
        CacheMismatch: another process asks it for answers into the same folder.
    """
    server = settings.server
    dialect: ScoringDialect
    if server is not None and server.dialect == "llama_cpp":
        dialect = LlamaCpp(tokens.meanings, server.model)
    elif server is not None and server.dialect == "vllm" and server.model is not None:
        dialect = Vllm(server.model)
    else:
        raise ConfigError("The recipe names no server that scores text.", where="teacher.server")
    client = Client(server, AnswerJournal(folder), tokenizer=fingerprint)
    name = teacher_name(settings)
    return ServedTeacher(client, dialect, width=width, name=name, template_sha256=template_sha256, device=device)

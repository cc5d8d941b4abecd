"""Open the teacher of a recipe that is behind a server."""

from __future__ import annotations

from pathlib import Path

import torch

from distillab.config.teacher import TeacherConfig
from distillab.errors import ConfigError
from distillab.pairing.loading import LoadedTokenizer
from distillab.teachers.served.client import Client
from distillab.teachers.served.errors import ServerError
from distillab.teachers.served.journal import AnswerJournal
from distillab.teachers.served.probing import probed_once, scoring_dialect
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
    """Return the teacher; its server is probed, unless the folder holds the result of an earlier start.

    Args:
        folder: where the server's answers are stored, and what was found of it.
        tokens: the tokenizer that makes its ids. fingerprint: of it.
        width: ids of its distributions. template_sha256: of the template by which it reads rows.
        device: of its signal.
    Raises:
        ConfigError: its key is not in the environment.
        ServerError: it scores no text, or does not give what it seems to.
        CacheMismatch: another process asks it for answers into the same folder.
    """
    server = settings.server
    if server is None:
        raise ConfigError("The recipe names no server.", where="teacher.server")
    journal = AnswerJournal(folder)
    found = probed_once(server, folder, tokens, fingerprint=fingerprint, width=width)
    dialect = scoring_dialect(found.dialect, server.model, tokens)
    if dialect is None:
        raise ServerError(
            "The server scores no text.",
            where=f"{server.url}, dialect {found.dialect}",
            facts=[f"{check.name}: {check.found}" for check in found.checks],
            fix="use a method that reads answers alone (access text), or a server of llama.cpp, vLLM or SGLang",
        )
    return ServedTeacher(
        Client(server, journal, tokenizer=fingerprint, backend=found.backend),
        dialect,
        width=width,
        name=teacher_name(settings),
        template_sha256=template_sha256,
        device=device,
        probe=found,
    )

"""Open the teacher of a recipe that is behind a server."""

from __future__ import annotations

from pathlib import Path

import torch

from distillab.config.served import ServerConfig
from distillab.config.teacher import TeacherConfig
from distillab.errors import ConfigError
from distillab.pairing.loading import LoadedTokenizer
from distillab.teachers.served.client import Client
from distillab.teachers.served.cost import Account
from distillab.teachers.served.dialects.openai_chat import OpenAiChat
from distillab.teachers.served.errors import ServerError
from distillab.teachers.served.journal import ANSWERS, AnswerJournal
from distillab.teachers.served.probing import answering_dialect, probed_once, scoring_dialect
from distillab.teachers.served.teacher import ServedTeacher, served_identity
from distillab.teachers.served.writing import ServedWriter
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
    account: Account | None = None,
    file: str = ANSWERS,
) -> ServedTeacher:
    """Return the teacher; its server is probed, unless the folder holds the result of an earlier start.

    Args:
        folder: where the server's answers are stored, and what was found of it.
        tokens: the tokenizer that makes its ids. fingerprint: of it.
        width: ids of its distributions. template_sha256: of the template by which it reads rows.
        device: of its signal.
        account: of all that is asked of the teacher; default: of this alone.
        file: in the folder, into which its answers are written.
    Raises:
        ConfigError: its key is not in the environment.
        ServerError: it scores no text, or does not give what it seems to.
        CacheMismatch: another process asks it for answers into the same file.
    """
    server = _server(settings)
    journal = AnswerJournal(folder, file)
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
        Client(server, journal, tokenizer=fingerprint, backend=found.backend, account=account),
        dialect,
        width=width,
        name=teacher_name(settings),
        template_sha256=template_sha256,
        device=device,
        probe=found,
    )


def open_writer(
    settings: TeacherConfig,
    folder: Path,
    *,
    tokens: LoadedTokenizer,
    fingerprint: str,
    template_sha256: str,
    account: Account | None = None,
    file: str = ANSWERS,
) -> ServedWriter:
    """Return the teacher as a source of answers; the arguments and errors as of `open_served`."""
    server = _server(settings)
    journal, width = AnswerJournal(folder, file), len(tokens.tokenizer)
    known = None if settings.path is None else tokens  # else they are the student's, and no server is asked by them
    found = probed_once(server, folder, known, fingerprint=fingerprint, width=width)
    dialect = answering_dialect(found.dialect, server, tokens)
    if dialect is None:
        raise ServerError(
            "Answers are not asked for in this form of API.",
            where=f"{server.url}, dialect {found.dialect}",
            fix="set teacher.server.dialect: openai_chat, which such servers have too",
        )
    read_by = "" if isinstance(dialect, OpenAiChat) else fingerprint
    identity = served_identity(
        server, "text", width=width, name=teacher_name(settings), template_sha256=template_sha256, probe=found
    )
    client = Client(server, journal, tokenizer=read_by, backend=found.backend, account=account)
    return ServedWriter(client, dialect, identity, probe=found)


def _server(settings: TeacherConfig) -> ServerConfig:
    if settings.server is None:
        raise ConfigError("The recipe names no server.", where="teacher.server")
    return settings.server

"""Find a server's dialect and probe it, once for a run: the result is kept beside the server's answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from distillab.config.served import Dialect, ServerConfig
from distillab.errors import TeacherError
from distillab.models.generation import Decoding
from distillab.pairing.loading import LoadedTokenizer
from distillab.records import ServerCheck, ServerProbe, read_record, write_record
from distillab.teachers.protocol import Prompt, Sampling
from distillab.teachers.served.client import Client
from distillab.teachers.served.cost import Account, served_cost
from distillab.teachers.served.dialects.dialect import AnsweringDialect, ScoringDialect, Wanted
from distillab.teachers.served.dialects.llama_cpp import LlamaCpp
from distillab.teachers.served.dialects.openai_chat import OpenAiChat
from distillab.teachers.served.dialects.sglang import SgLang
from distillab.teachers.served.dialects.vllm import Vllm
from distillab.teachers.served.errors import ServerError
from distillab.teachers.served.probe import TEXT, LogProbabilities, probe

FILE = "probe.json"
_SCORING: tuple[Dialect, ...] = ("sglang", "llama_cpp", "vllm")
_TRIES = 2


def scoring_dialect(name: str, model: str | None, tokens: LoadedTokenizer) -> ScoringDialect | None:
    """Return how text is scored in a dialect; None: it gives text alone, or is not known yet (auto).

    Args:
        model: the name by which the server has the model.
        tokens: the tokenizer that makes the ids.
    """
    match name:
        case "llama_cpp":
            return LlamaCpp(tokens.meanings, model)
        case "vllm":
            return Vllm(model)
        case "sglang":
            return SgLang()
        case _:
            return None


def answering_dialect(name: str, server: ServerConfig, tokens: LoadedTokenizer) -> AnsweringDialect | None:
    """Return how answers are asked for in a dialect; None: it is not known. `tokens` as of `scoring_dialect`."""
    match name:
        case "llama_cpp":
            return LlamaCpp(tokens.meanings, server.model)
        case "vllm":
            return Vllm(server.model)
        case "openai_chat" if server.model is not None:
            return OpenAiChat(server.model, server.fields)
        case _:
            return None


def find_dialect(
    server: ServerConfig, tokens: LoadedTokenizer | None, account: Account | None = None
) -> tuple[Dialect, list[ServerCheck]]:
    """Return the dialect whose own request the server answers rightly, and what those before it were answered.

    Those that score text are asked for the value of one token, then chat for one short answer.

    Args:
        tokens: the tokenizer that makes the ids; None: only chat can be asked.
        account: what the answers took is added to it.
    Raises:
        ServerError: no dialect fits.
    """
    tried = []
    for name in _SCORING:
        dialect = None if tokens is None else scoring_dialect(name, server.model, tokens)
        if tokens is None or dialect is None:
            continue
        ids = tokens.tokenizer(TEXT).input_ids[:3]
        calls = dialect.calls(Wanted(ids, (len(ids) - 1,), 1, len(tokens.meanings), "probe"))
        try:
            with closing(_client(server, account)) as client:
                for each in calls:
                    client.ask(each.call, each.read)
        except TeacherError as error:
            tried.append(ServerCheck(name=f"scores text by {name}", passed=None, found=_why(error)))
        else:
            return name, tried
    chat = _chat(server, account)
    if chat.passed:
        return "openai_chat", [*tried, chat]
    raise ServerError(
        "The server has no API that is known.",
        where=server.url,
        facts=[f"{check.name}: {check.found}" for check in (*tried, chat)],
        fix="is it running? check teacher.server: url (without the path of an API), model, api_key_env",
    )


def _chat(server: ServerConfig, account: Account | None) -> ServerCheck:
    """Ask for one short answer."""
    name = "gives text by openai_chat"
    if server.model is None:
        return ServerCheck(name=name, passed=False, found="not asked: it needs the name of a model")
    say = Prompt("probe", (), (("user", "Say yes."),))
    chat = OpenAiChat(server.model, server.fields)
    asked = chat.answer_call(say, Sampling(Decoding(4), (), seed=0))
    try:
        with closing(_client(server, account)) as client:
            answer = client.ask(asked.call, chat.read)
    except TeacherError as error:
        return ServerCheck(name=name, passed=False, found=_why(error))
    return ServerCheck(name=name, passed=True, found=f"an answer of {len(answer.text)} characters, {answer.finish}")


def probed(
    server: ServerConfig,
    tokens: LoadedTokenizer | None,
    *,
    fingerprint: str,
    width: int,
    local: LogProbabilities | None = None,
    rows: Sequence[Sequence[int]] = (),
) -> ServerProbe:
    """Ask a server what it is and what it gives.

    Args:
        fingerprint: of the tokenizer. Others as of `probe`.
    Raises:
        ServerError: the server cannot be used.
    """
    account = Account(server)
    if server.dialect == "auto":
        name, checks = find_dialect(server, tokens, account)
    else:
        name, checks = server.dialect, [_chat(server, account)] if server.dialect == "openai_chat" else []
    dialect = None if tokens is None else scoring_dialect(name, server.model, tokens)
    with closing(_client(server, account)) as client:
        if tokens is not None and dialect is not None:
            checks = probe(client, dialect, tokens.tokenizer(TEXT).input_ids, width=width, local=local, rows=rows)
        return ServerProbe(
            asked=_asked(server, fingerprint, width),
            url=server.url,
            dialect=name,
            model=server.model,
            backend=client.backend,
            k=server.k,
            checks=tuple(checks),
            cost=served_cost(account.paid, server.prices),
        )


def probed_once(
    server: ServerConfig, folder: Path, tokens: LoadedTokenizer | None, *, fingerprint: str, width: int
) -> ServerProbe:
    """Return the probe in a folder; if there is none of these settings, the server is asked, and the result written.

    Raises:
        ServerError: the server cannot be used, or does not give what it seems to.
    """
    path = folder / FILE
    if path.exists():
        known = read_record(ServerProbe, path, fix="remove it: the server is then probed again")
        if known.asked == _asked(server, fingerprint, width):
            return known
    found = probed(server, tokens, fingerprint=fingerprint, width=width)
    wrong = [f"{check.name}: {check.found}" for check in found.checks if check.passed is False]
    if wrong:
        raise ServerError(
            "The server does not give what it seems to: no row was asked for.",
            where=f"{server.url}, dialect {found.dialect}",
            facts=wrong,
            fix="`distillab teacher probe URL` shows all that it does; correct its settings, or use another server",
        )
    write_record(found, path)
    return found


def folders_of(server: ServerConfig, output: Path) -> list[Path]:
    """Return the folders below that of a run or a study in which answers of a server are stored."""
    found = sorted(path for kept in ("served", "answers", "cache") for path in (output / kept).rglob(FILE))
    asked = [(path.parent, read_record(ServerProbe, path)) for path in found]
    return [folder for folder, probe in asked if (probe.url, probe.model) == (server.url, server.model)]


def _client(server: ServerConfig, account: Account | None) -> Client:
    """Return a client whose every request is sent; a server that is not there is not waited for."""
    return Client(server.model_copy(update={"tries": min(server.tries, _TRIES)}), None, tokenizer="", account=account)


def _asked(server: ServerConfig, fingerprint: str, width: int) -> str:
    facts = [server.identity_sha256, server.dialect, server.k, fingerprint, width]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _why(error: TeacherError) -> str:
    return "; ".join(error.facts or (error.rule,))[:200]

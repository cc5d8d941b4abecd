"""`distillab teacher`: teachers behind a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from distillab.terminal import echo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distillab.teachers.served.probe import Floats, LogProbabilities

teacher_app = typer.Typer(name="teacher", help="Teachers behind a server.", no_args_is_help=True, rich_markup_mode=None)
_ROWS = 32  # compared with the local weights
_MARKS = {True: "ok", False: "NO", None: "--"}


@teacher_app.callback()
def _teacher() -> None:
    """Exit code 0: the server can be used; 1: it cannot, or is not what it seems; 2: wrong usage."""


@teacher_app.command("probe")
def probe_command(
    url: Annotated[str, typer.Argument(help="Address of the server, as http://127.0.0.1:8080.")],
    path: Annotated[str, typer.Option("--path", help="Folder or hub id of its configuration and tokenizer.")],
    dialect: Annotated[
        Literal["auto", "llama_cpp", "vllm", "sglang", "openai_chat"],
        typer.Option("--dialect", help="Form of its API; auto: it is asked."),
    ] = "auto",
    model: Annotated[str | None, typer.Option("--model", help="The name under which it has the model.")] = None,
    k: Annotated[int, typer.Option("--k", min=1, help="Entries asked for at each position.")] = 16,
    api_key_env: Annotated[
        str | None, typer.Option("--api-key-env", help="Environment variable that holds the key.")
    ] = None,
    weights: Annotated[
        bool, typer.Option("--weights", help="Also compare with the weights at --path, in this process.")
    ] = False,
) -> None:
    """Measure by a few requests what a server gives, and print the line for the recipe."""
    from pydantic import ValidationError

    from distillab.cli.console import quiet_libraries
    from distillab.config.problems import readable
    from distillab.config.served import ServerConfig

    values = {"url": url, "dialect": dialect, "model": model, "k": k, "api_key_env": api_key_env, "tries": 2}
    try:
        server = ServerConfig.model_validate(values)
    except ValidationError as error:
        raise readable(error, ServerConfig, where="distillab teacher probe", overrides=()) from error
    quiet_libraries()
    from distillab.demo.instructions import draw_instructions
    from distillab.pairing.contract import fingerprint
    from distillab.pairing.loading import load_tokenizer, logits_width
    from distillab.teachers.served.probing import probed

    tokens = load_tokenizer(path)
    rows = [row.instruction for row in draw_instructions(_ROWS - 1, seed=0)]
    found = probed(
        server,
        tokens,
        fingerprint=fingerprint(tokens),
        width=logits_width(path) or len(tokens.meanings),
        local=_local(path) if weights else None,
        rows=[tokens.tokenizer(row).input_ids for row in rows] if weights else (),
    )
    echo(f"{found.url}: {found.dialect}")
    for check in found.checks:
        echo(f"  {_MARKS[check.passed]:<3} {check.name:<36} {check.found}")
    if any(check.passed is False for check in found.checks):
        echo("the server cannot be used as a teacher")
        raise typer.Exit(1)
    named = f", model: {model}" if model else ""
    echo(f"teacher: {{path: {path}, server: {{url: {url}, dialect: {found.dialect}{named}, k: {k}}}}}")


def _local(path: str) -> LogProbabilities:
    """Return the log-probabilities of the weights at a path."""
    import torch

    from distillab.models.loading import load_model

    loaded = load_model(path, dtype="float32", device=torch.device("cpu"), revision=None, role="teacher")

    @torch.no_grad()
    def logp(ids: Sequence[int]) -> Floats:
        return loaded(torch.tensor([ids])).logits[0].double().log_softmax(-1).numpy()

    return logp

"""`distillab export`: hand on the student of a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from distillab.export.forms import To
from distillab.terminal import echo


def export_command(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    to: Annotated[
        To,
        typer.Option(
            "--to",
            help="safetensors: the files as the run saved them. merged: whole weights, adapters added to them. hub: "
            "safetensors, ready to upload. gguf: one file for llama.cpp and Ollama.",
        ),
    ],
    out: Annotated[Path | None, typer.Option("--out", help="New folder; default: RUN/export/FORM.")] = None,
    dtype: Annotated[
        Literal["f32", "f16", "q8_0"] | None, typer.Option("--dtype", help="Of the weights in GGUF; default: f16.")
    ] = None,
    license_: Annotated[
        str | None, typer.Option("--license", help="Of the student, as the hub names it: apache-2.0, mit, …")
    ] = None,
    repo: Annotated[
        str | None, typer.Option("--repo", help="OWNER/NAME on the hub, to upload to; with hub or gguf.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make the repository private if it is new.")] = False,
) -> None:
    """Write the student of RUN with a model card made from its records; optionally upload it."""
    from distillab.cli.console import quiet_libraries
    from distillab.errors import ConfigError
    from distillab.export.upload import require_repo, upload

    if dtype is not None and to != "gguf":
        raise ConfigError("--dtype is for --to gguf; other forms keep the type that the run saved.", fix="leave it out")
    if repo is None and private:
        raise ConfigError("--private has no effect without --repo.", fix="add --repo OWNER/NAME, or leave it out")
    if repo is not None:
        if to not in ("hub", "gguf"):
            raise ConfigError(f"--repo is not for --to {to}.", fix="write --to hub, or --to gguf")
        require_repo(repo)
    quiet_libraries()
    from distillab.export.finished import read_finished_run
    from distillab.export.folder import export_run

    finished = read_finished_run(run)
    folder = out or run / "export" / to
    for note in export_run(finished, folder, to=to, dtype=dtype or "f16", licence=license_):
        echo(f"note: {note}")
    echo(f"{to}: {folder}   card: {folder}/README.md")
    if repo is not None:
        echo(f"uploaded: {upload(folder, repo, private=private)}")

"""Entry point of the command line. Heavy imports are inside the commands, so that --help is fast."""

from __future__ import annotations

import io
import os
import shlex
import sys
import traceback

import typer

from distillab import __version__
from distillab.cli.cache import cache_app
from distillab.cli.check import check_command
from distillab.cli.compare import compare_command
from distillab.cli.data import data_command
from distillab.cli.demo import demo_command
from distillab.cli.doctor import doctor_app
from distillab.cli.estimate import estimate_command
from distillab.cli.export import export_command
from distillab.cli.init import init_command
from distillab.cli.prune import prune_command
from distillab.cli.recipe_list import recipes_app
from distillab.cli.recipes import schema_command, show_command
from distillab.cli.report import report_command
from distillab.cli.teacher import teacher_app
from distillab.cli.train import train_command
from distillab.errors import DistillabError
from distillab.files import disk_full_error, is_disk_full
from distillab.interruption import Interrupted, handle_signals
from distillab.terminal import echo

app = typer.Typer(
    name="distillab",
    help="Distil large language models into small ones, and know why it works or does not.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


_EXTRAS = ("peft", "bitsandbytes", "torchao", "gguf", "s3fs", "zstandard", "ray", "deepspeed")


def _versions() -> str:
    """Return the versions of what results depend on, the device, and which extras are installed."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    def found(name: str) -> str:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            return f"{name} –"

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    lines = [
        f"distillab {__version__}",
        ", ".join((f"Python {platform.python_version()}", f"torch {torch.__version__}", found("transformers"))),
        f"device: {device}",
        f"extras: {', '.join(map(found, _EXTRAS))}",
    ]
    return "\n".join(lines)


def _show_version(value: bool) -> None:
    if value:
        echo(_versions())
        raise typer.Exit()


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Print the versions."),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of every error."),
) -> None:
    if debug:
        os.environ["DISTILLAB_DEBUG"] = "1"


app.command("init")(init_command)
app.command("check")(check_command)
app.command("data")(data_command)
app.command("prune")(prune_command)
app.command("train")(train_command)
app.command("compare")(compare_command)
app.command("estimate")(estimate_command)
app.command("export")(export_command)
app.add_typer(recipes_app)
app.command("show")(show_command)
app.command("schema")(schema_command)
app.add_typer(cache_app)
app.add_typer(teacher_app)
app.add_typer(doctor_app)
app.command("report")(report_command)
app.command("demo")(demo_command)


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 a finding or a failed run, 2 wrong usage, 128 + n signal n."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for terminals that are not UTF-8
    try:
        with handle_signals():
            app()
    except Interrupted as stop:
        command = shlex.join(["distillab", *sys.argv[1:]])
        lines = [*stop.kept, "Interrupted. Finished work is kept; the same command resumes:", f"  {command}"]
        echo("\n".join(lines), error=True)
        sys.exit(stop.exit_code)
    except DistillabError as error:
        _tell(f"{type(error).__name__}: {error}", error)
        sys.exit(2 if type(error).__name__ == "ConfigError" else 1)
    except Exception as error:  # noqa: BLE001 (the process border: a traceback can hold a secret)
        place, cause = getattr(error, "filename", None), getattr(error, "strerror", None)
        if is_disk_full(error):  # an error of any library that writes files
            _tell(f"StorageError: {disk_full_error(error, where=place)}", error)
        elif isinstance(error, OSError):
            _tell(f"{cause or error}: {place or ''}".rstrip(": "), error)
        else:
            echo("".join(traceback.format_exception(error)).rstrip(), error=True)
        sys.exit(1)
    finally:
        _leave_process_group()


def _tell(message: str, error: Exception) -> None:
    """Print an expected error in a few lines; with --debug its traceback."""
    whole = os.environ.get("DISTILLAB_DEBUG")
    echo("".join(traceback.format_exception(error)).rstrip() if whole else message, error=True)


def _leave_process_group() -> None:
    """Close torch's process group under torchrun: left open, torch sometimes aborts when the interpreter exits."""
    distributed = sys.modules.get("torch.distributed")  # not imported: no group
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()

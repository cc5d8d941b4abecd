"""`distillab doctor`: why are my values so low?"""

from __future__ import annotations

from typing import Annotated

import typer

from distillab.cli.doctor_batch import batch_command
from distillab.cli.doctor_data import data_command
from distillab.cli.doctor_investigate import investigate_command
from distillab.cli.doctor_pair import pair_command
from distillab.cli.doctor_run import run_command
from distillab.cli.doctor_tasks import tasks_command
from distillab.cli.doctor_trainer import trainer_command
from distillab.cli.preflight import preflight_command
from distillab.terminal import echo

doctor_app = typer.Typer(
    name="doctor",
    help="Why are my values so low? Checks batch, data, loss, pair and run, and lists errors with fixes.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@doctor_app.callback()
def _doctor() -> None:
    """Exit code 0: no error was found; 1: an error, or unreadable input; 2: wrong usage."""


@doctor_app.command("explain")
def _explain(
    finding: Annotated[str, typer.Argument(metavar="ID", help="Id of a finding, as in a report.")],
) -> None:
    """Print the page of a finding: what it means, what to do, how it is found, why it hurts."""
    from distillab.doctor.checks import page

    echo(page(finding))


doctor_app.command("investigate")(investigate_command)
doctor_app.command("batch")(batch_command)
doctor_app.command("data")(data_command)
doctor_app.command("pair")(pair_command)
doctor_app.command("run")(run_command)
doctor_app.command("tasks")(tasks_command)
doctor_app.command("trainer")(trainer_command)
doctor_app.command("preflight")(preflight_command)

"""`distillab estimate`: what a recipe will take of a device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distillab.terminal import echo, plural

if TYPE_CHECKING:
    from distillab.doctor.estimate import Estimate


def estimate_command(
    recipe: Annotated[Path, typer.Argument(help="Recipe of a run or of a study (YAML).")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Changes to the recipe: key.sub=value …")] = None,
    device: Annotated[
        str, typer.Option("--device", help="cpu (this machine), h200, h100-80g, a100-80g, l40s, rtx-4090, …")
    ] = "cpu",
) -> None:
    """Estimate memory, disk, tokens and hours of a recipe on a device. Weights are not read, and need not be there.

    Exit code 1: the device has too little memory.
    """
    from distillab.cli.console import quiet_libraries
    from distillab.cli.recipes import load_any

    loaded = load_any(recipe, overrides or [])
    quiet_libraries()
    from distillab.config import RunRecipe
    from distillab.doctor.devices import device_named
    from distillab.doctor.estimate import estimate
    from distillab.doctor.selftest.machine import this_memory

    chosen = device_named(device, memory_bytes=this_memory())
    if not _show(estimate(loaded, chosen), loaded.name if isinstance(loaded, RunRecipe) else loaded.title):
        raise typer.Exit(1)


def _show(found: Estimate, title: str) -> bool:
    """Print an estimate; return whether the device has the memory."""
    from distillab.doctor.estimate import UTILISATION
    from distillab.doctor.selftest.machine import size

    device = found.device
    echo(f"{title}, estimated from configurations and rows for {device.name}")
    echo(
        f"  {size(device.memory_bytes)}, {device.bfloat16 / 1e12:,.3g} TFLOP/s bfloat16, {device.float32 / 1e12:,.3g} "
        f"float32, {device.bandwidth / 1e9:,.0f} GB/s ({device.source}); {UTILISATION:.0%} of it is reached"
    )
    echo("memory of one run")
    for run in found.runs:
        echo(f"  {run.name:<20} {size(run.memory.total):>11}: {run.memory}")
    fits = found.memory_bytes <= device.memory_bytes
    at_once = f"{plural(found.together, 'run')} at once: about {size(found.memory_bytes)}"
    echo(f"  {at_once}: {'fits' if fits else 'DOES NOT FIT'}")
    echo("disk")
    for name, count in found.disk.items():
        echo(f"  {name:<20} {size(count):>11}")
    echo("tokens of one run (read, scored, read by the teacher in training), and hours in training and evaluation")
    for run in found.runs:
        tokens = (f"{count:>14,.0f}" for count in (run.student_tokens, run.scored_tokens, run.teacher_tokens))
        echo(f"  {run.name:<20} {''.join(tokens)}   {_hours(run.training)} {_hours(run.evaluation)} × {run.runs}")
    for name, seconds in found.shared.items():
        echo(f"  {name:<65} {_hours(seconds)}")
    if found.asked:
        echo("asked of a server, once: tokens that it reads, and that it generates at most")
    for name, asked in found.asked.items():
        money = "" if asked.money is None else f"   {asked.money:.4g} by teacher.server.prices"
        echo(f"  {name:<35} {asked.read:>14,} {asked.written:>14,}{money}")
    echo(
        f"in all {_hours(found.seconds).strip()} hours, one run after another; answers counted at their largest length"
    )
    return fits


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:>9,.3g}"

"""`distillab estimate`: what a recipe will take of a device."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distillab.errors import ConfigError
from distillab.terminal import echo, plural

if TYPE_CHECKING:
    from distillab.preflight.estimated import Estimate


def estimate_command(
    recipe: Annotated[Path, typer.Argument(help="Recipe of a run or of a study (YAML).")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Changes to the recipe: key.sub=value …")] = None,
    device: Annotated[
        str, typer.Option("--device", help="cpu (this machine), h200, h100-80g, a100-80g, l40s, rtx-4090, …")
    ] = "cpu",
    devices: Annotated[
        int,
        typer.Option(
            "--gpus",
            min=1,
            help="Devices of this kind, each with its own runs and shares of caches; with deepspeed, of the one run.",
        ),
    ] = 1,
    tokens: Annotated[
        float | None,
        typer.Option(
            "--tokens", min=1, help="Also for a cache of so many tokens in rows like those of the recipe: 1e9."
        ),
    ] = None,
) -> None:
    """Estimate memory, disk, tokens and hours of a recipe on a device. Weights are not read, and need not be there.

    Exit code 1: the device has too little memory.
    """
    from distillab.cli.console import quiet_libraries
    from distillab.cli.recipes import load_any

    loaded = load_any(recipe, overrides or [])
    quiet_libraries()
    from distillab.config import RunRecipe
    from distillab.preflight.devices import device_named
    from distillab.preflight.estimate import estimate
    from distillab.preflight.machine import this_memory

    chosen = device_named(device, memory_bytes=this_memory())
    found = estimate(loaded, chosen, devices=devices)
    if tokens is not None and not found.signals:
        raise ConfigError(
            "The recipe stores no teacher's signals on its training rows, so --tokens has no effect.",
            where="--tokens",
            fix="give a study with an arm such as logits and teacher_signals: cached",
        )
    fits = _show(found, loaded.name if isinstance(loaded, RunRecipe) else loaded.title)
    if tokens is not None:
        _show_cache(found, tokens)
    if not fits:
        raise typer.Exit(1)


def _show(found: Estimate, title: str) -> bool:
    """Print an estimate; return whether the device has the memory."""
    from distillab.preflight.estimated import UTILISATION
    from distillab.preflight.machine import size

    device = found.device
    echo(f"{title}, estimated from configurations and rows for {device.name}")
    echo(
        f"  {size(device.memory_bytes)}, {device.bfloat16 / 1e12:,.3g} TFLOP/s bfloat16, {device.float32 / 1e12:,.3g} "
        f"float32, {device.bandwidth / 1e9:,.0f} GB/s ({device.source}); {UTILISATION:.0%} of it is reached"
    )
    echo("memory of one run")
    for run in found.runs:
        one_of = "" if run.processes == 1 else f", in each of {run.processes} processes"
        echo(f"  {run.name:<20} {size(run.memory.total):>11}: {run.memory}{one_of}")
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
    if found.devices > 1:
        echo(
            f"on {found.devices} devices, caches and answers divided, one run a device: "
            f"{_hours(found.side_by_side).strip()} hours"
        )
    echo(
        f"in all {_hours(found.seconds).strip()} hours, one run after another; answers counted at their largest length"
    )
    return fits


def _show_cache(found: Estimate, tokens: float) -> None:
    """Print what is stored of so many tokens, and how fast runs read it."""
    from distillab.preflight.machine import size

    echo(f"a cache of {tokens:,.0f} tokens in rows like these")
    for name, one in found.signals.items():
        more = tokens / one.tokens
        echo(f"  {name}")
        echo(f"    {(one.once + more * one.bytes) / 1e12:,.3g} TB, {one.bytes / one.tokens:,.1f} bytes a token")
        least = math.ceil(one.weights / found.device.memory_bytes)
        echo(f"    the teacher's weights: {size(one.weights)}, on {plural(least, 'device')} at least")
        for kind, seconds in one.seconds.items():
            hours = more * seconds / 3600
            echo(
                f"    {kind:<10} {hours:>12,.4g} hours of one, {hours / found.devices:>10,.4g} hours on {found.devices}"
            )
        echo(f"    a run on one device reads {one.reading / 1e6:,.3g} MB/s of it at most")


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:>9,.3g}"

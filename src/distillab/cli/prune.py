"""`distillab prune`: make a student from its teacher, and say what the pruning costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from distillab.terminal import echo

if TYPE_CHECKING:
    from distillab.runs.pruning_cost import Measured


def prune_command(
    teacher: Annotated[str, typer.Argument(help="Folder or hub id of the model to prune.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings of a recipe: data.max_tokens=256 evaluation.rows=100 …")
    ] = None,
    *,
    data: Annotated[str, typer.Option("--data", help="Rows to measure on and to hold out: a file or hub id.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the student.")],
    keep_layers: Annotated[
        str | None, typer.Option("--keep-layers", help="A number of decoder blocks, or a list of them: 0,1,5,8.")
    ] = None,
    by: Annotated[
        str | None, typer.Option("--by", help="influence, contiguous or uniform; default: influence.")
    ] = None,
    mlp: Annotated[float | None, typer.Option("--mlp", help="Share of the MLP channels that is kept.")] = None,
    heads: Annotated[
        float | None, typer.Option("--heads", help="Share of the key-value heads that is kept, with their query heads.")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Also evaluate what the other ways to choose as many blocks would give.")
    ] = False,
) -> None:
    """Make a smaller model of parts of a larger one; print size, held-out loss and speed before and after."""
    from dataclasses import replace

    from distillab.cli.console import quiet_libraries
    from distillab.config import RunRecipe
    from distillab.config.loader import build_recipe
    from distillab.config.pruning import Choice
    from distillab.errors import ConfigError

    if not (counted := (keep_layers or "").isdigit()) and (by is not None or compare):
        raise ConfigError("--by and --compare need a number of blocks.", fix="write --keep-layers 12")
    by = by or ("influence" if counted else None)

    def recipe(how: str | None) -> RunRecipe:
        settings = {"keep_layers": _layers(keep_layers, how), "mlp": mlp, "heads": heads}
        values = {
            "student": {"from_teacher": {name: value for name, value in settings.items() if value is not None}},
            "teacher": {"path": teacher},
            "data": {"train": {"path": data}},
            "evaluation": {"generate_rows": 0},
            "output": str(out),
        }
        return build_recipe(RunRecipe, values, overrides or [], where="the command line")

    chosen = recipe(by)
    quiet_libraries()
    from distillab.runs.inputs import load_inputs
    from distillab.runs.pruned import importance_of, load_whole, read_made, save_made, student_from
    from distillab.runs.pruning_cost import measured

    inputs = replace(load_inputs(chosen), made_in=out)
    echo(inputs.held_out_line)
    read_made(inputs)  # raises where the folder holds something else
    model = load_whole(inputs)
    importance = importance_of(inputs, model)
    student, record = student_from(inputs, model, importance)
    save_made(inputs, student, record)
    before = measured(inputs, model)
    echo(f"{'':24}  {'parameters':>12}  {'nats/token':>10}  {'tokens/s':>9}  {'× before':>8}")
    _show("before", before, before)
    _show(by or "after", measured(inputs, student), before)
    for how in (how for how in get_args(Choice) if compare and how != by):
        other, _ = student_from(replace(inputs, recipe=recipe(how)), model, importance)
        _show(f"{how} (not kept)", measured(inputs, other), before)
    echo(f"{record.line}; layers {', '.join(map(str, record.kept_layers))}")
    echo(f"student: {out}   record: {out}/pruning.json")


def _layers(text: str | None, by: str | None) -> Any:
    """Return keep_layers of a recipe.

    Raises:
        ConfigError: the text is no list of numbers.
    """
    from distillab.errors import ConfigError

    if text is None or by is not None:
        return None if text is None else {"count": int(text), "by": by}
    if not all(part.strip().isdigit() for part in text.split(",")):
        raise ConfigError("--keep-layers takes a number, or numbers with commas.", facts=[f"got: {text}"])
    return [int(part) for part in text.split(",")]


def _show(name: str, model: Measured, before: Measured) -> None:
    echo(
        f"{name:24}  {model.parameters:12,}  {model.nats_per_token:10.3f}  {model.tokens_per_s:9,.0f}  "
        f"{model.tokens_per_s / before.tokens_per_s:8.2f}"
    )

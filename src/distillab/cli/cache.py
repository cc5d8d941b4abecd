"""`distillab cache`: store teacher signals once, for every run that learns from them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from distillab.cli.compare import Engine
from distillab.errors import ConfigError
from distillab.terminal import echo, plural

if TYPE_CHECKING:
    from distillab.config import RunRecipe, StudyRecipe

cache_app = typer.Typer(
    name="cache",
    help="Store teacher signals once, for every run that learns from them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_RECIPE = typer.Argument(help="Recipe of a run or of a study (YAML).")
_OVERRIDES = typer.Argument(help="Changes: cache.folder=caches/mine cache.rows_per_shard=512 …")
_LOCATION = typer.Argument(help="Folder, or an address such as s3://bucket/name.")


@cache_app.command("build")
def build_command(
    recipe: Annotated[Path, _RECIPE],
    overrides: Annotated[list[str] | None, _OVERRIDES] = None,
    worker: Annotated[
        str | None,
        typer.Option(
            "--worker",
            help="i/n: make every n-th shard, from shard i on. 0/2 and 1/2 are two workers. Default: torchrun's RANK "
            "and WORLD_SIZE, else 0/1.",
        ),
    ] = None,
    engine: Engine = "local",
) -> None:
    """Store the teacher signals that the recipe's methods need. After an interruption, the same command resumes."""
    number, workers = _share(worker)
    if engine == "ray" and worker is not None:
        raise ConfigError("Ray gives each task its share.", where="--worker", fix="leave out --worker, or --engine ray")
    loaded = _load(recipe, overrides)
    from distillab.cli.cache_console import show_built
    from distillab.config import StudyRecipe
    from distillab.study.cache_build import build_on_cluster, build_share

    builds = build_on_cluster(loaded) if engine == "ray" else build_share(loaded, worker=number, workers=workers)
    # under torchrun only the first process prints
    if worker is not None or number == 0:
        show_built(builds, study=isinstance(loaded, StudyRecipe))


@cache_app.command("import")
def import_command(
    recipe: Annotated[Path, typer.Argument(help="Recipe of a run (YAML): the rows, the student, cache.folder.")],
    overrides: Annotated[list[str] | None, _OVERRIDES] = None,
    files: Annotated[
        list[Path] | None, typer.Option("--from", help="Parquet file, or folder of them; can be given several times.")
    ] = None,
    tool: Annotated[
        Literal["distillkit", "axolotl", "trl"] | None, typer.Option("--format", help="Whose columns they have.")
    ] = None,
    teacher_tokenizer: Annotated[
        str | None,
        typer.Option("--teacher-tokenizer", help="Folder or hub id with the teacher's tokenizer and config.json."),
    ] = None,
    predicts: Annotated[
        Literal["same", "next"] | None,
        typer.Option("--predicts", help="axolotl: an entry is of the token at its place (same), or of the next one."),
    ] = None,
    temperature: Annotated[
        float, typer.Option("--temperature", min=1e-3, help="At which the log-probabilities were computed.")
    ] = 1.0,
) -> None:
    """Make a cache of the recipe's training rows from log-probabilities that another tool has stored."""
    if not files or tool is None or teacher_tokenizer is None:
        raise ConfigError(
            "The files, their format and the teacher's tokenizer are needed; no file says which tokenizer it has.",
            fix="add --from FILE --format distillkit (or axolotl, trl) --teacher-tokenizer FOLDER",
        )
    if predicts is not None and tool != "axolotl":
        raise ConfigError("Only axolotl's versions differ in their order.", where="--predicts", fix="remove it")
    from distillab.cli.console import quiet_libraries
    from distillab.config import RunRecipe, load_recipe

    loaded = load_recipe(RunRecipe, recipe, overrides or [])
    quiet_libraries()
    from distillab.study.cache_import import import_cache

    done = import_cache(
        loaded, files, tool=tool, tokenizer=teacher_tokenizer, predicts=predicts, temperature=temperature
    )
    unused = f"; {plural(done.unused, 'row')} of the files not used" if done.unused else ""
    echo(f"{done.location}: {plural(done.rows, 'row')}, {done.k} ids a position{unused}")
    if done.whole:
        echo(
            f"at {done.whole} of {done.scored} scored positions the kept probabilities sum to one: renormalised by the "
            "tool, or all there are"
        )
    echo("the line for the recipe:")
    echo(f"teacher: {{cache: {done.location}}}")


@cache_app.command("estimate")
def estimate_command(
    recipe: Annotated[Path, _RECIPE], overrides: Annotated[list[str] | None, _OVERRIDES] = None
) -> None:
    """Estimate the cost of `build`: rows, tokens, bytes, teacher time, free disk space. Nothing is written.

    Exit code 1: the disk has too little space.
    """
    loaded = _load(recipe, overrides)
    from distillab.cli.cache_console import show_estimate
    from distillab.study.cache_build import cache_builds
    from distillab.study.cache_estimate import estimate

    builds = cache_builds(loaded)
    if not show_estimate([(item, estimate(item)) for item in builds]):
        raise typer.Exit(1)


@cache_app.command("info")
def info_command(location: Annotated[str, _LOCATION]) -> None:
    """Show the identity and the content of a cache."""
    from distillab.cli.cache_console import show_info
    from distillab.teachers.stored.location import require_location

    require_location(location)
    show_info(location)


@cache_app.command("verify")
def verify_command(
    location: Annotated[str, _LOCATION],
    discard: Annotated[
        bool, typer.Option("--discard", help="Remove damaged shards; the next build makes them again.")
    ] = False,
) -> None:
    """Read and check every byte of a cache. Exit code 1: something is damaged or missing."""
    from distillab.cli.cache_console import show_verified
    from distillab.teachers.stored.location import require_location

    if discard and "://" in location:
        raise ConfigError(
            "Only a cache on this machine can be repaired.", where=location, fix="copy it here, then back"
        )
    require_location(location)
    if not show_verified(location, discard=discard):
        raise typer.Exit(1)


@cache_app.command("merge")
def merge_command(
    into: Annotated[Path, typer.Argument(help="Folder of the joined cache.")],
    parts: Annotated[list[Path], typer.Argument(metavar="FROM...", help="Folders that workers have built.")],
) -> None:
    """Join caches with the same identity. Nothing is copied: the joined cache refers to the other folders."""
    from distillab.cli.cache_console import show_info
    from distillab.teachers.stored.merging import merge_locations

    merge_locations(into, parts)
    show_info(str(into))


@cache_app.command("export")
def export_command(
    location: Annotated[str, _LOCATION],
    to: Annotated[Literal["parquet"], typer.Option("--to", help="Format.")],
    output: Annotated[
        Path | None, typer.Option("--output", help="File; default: next to the folder, as FOLDER.parquet.")
    ] = None,
) -> None:
    """Write a cache as one table, for other tools."""
    from distillab.cache.export import export_parquet
    from distillab.cache.reader import CacheReader
    from distillab.progress import Progress
    from distillab.teachers.stored.location import PARTS, has_part, part_of, require_location

    require_location(location)
    if not has_part(location, "train"):
        parts = [part_of(location, part) for part in PARTS if has_part(location, part)]
        raise ConfigError("Name one part of the cache.", where=location, facts=parts, fix="give one of these")
    if output is None:
        if "://" in location:
            raise ConfigError("A remote cache has no local folder for the file.", fix="add --output FILE")
        folder = Path(location).expanduser()
        output = folder.with_name(f"{folder.resolve().name}.{to}")
    reader = CacheReader(location)
    with Progress("exporting", total=len(reader), unit="rows") as progress:
        export_parquet(reader, output, on_rows=progress.advance)
    echo(f"{output}: {len(reader):,} rows, {output.stat().st_size:,} bytes")


def _load(recipe: Path, overrides: list[str] | None) -> RunRecipe | StudyRecipe:
    from distillab.cli.console import quiet_libraries
    from distillab.cli.recipes import load_any

    loaded = load_any(recipe, overrides or [])
    quiet_libraries()
    return loaded


def _share(text: str | None) -> tuple[int, int]:
    """Return the index of this worker and the number of workers.

    Raises:
        ConfigError: not i/n with 0 ≤ i < n.
    """
    where = "--worker"
    if text is None:
        where, text = "RANK, WORLD_SIZE", f"{os.environ.get('RANK', '0')}/{os.environ.get('WORLD_SIZE', '1')}"
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None or not int(found[1]) < int(found[2]):
        raise ConfigError(
            "A worker is i/n, and i counts from 0 to n - 1.",
            where=where,
            facts=[f"got: {text}"],
            fix="e.g. 0/2 and 1/2",
        )
    return int(found[1]), int(found[2])

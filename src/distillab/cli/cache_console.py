"""Output of `distillab cache`. Heavy imports are inside the commands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distillab.cache.folder import read_identity, shards_of
from distillab.cache.sources import open_source
from distillab.cache.summary import CacheSummary, summarise
from distillab.cache.verify import VerifyReport, discard_damaged, verify
from distillab.errors import CacheError
from distillab.files import free_bytes
from distillab.progress import Progress
from distillab.teachers.stored.location import PARTS, has_part, location_faults, part_of, tokenizer_is_sealed
from distillab.terminal import echo

if TYPE_CHECKING:
    from distillab.study.cache_build import CacheBuild
    from distillab.study.cache_estimate import PartEstimate


def show_info(location: str) -> None:
    """Print every part of a location."""
    for part in PARTS:
        if has_part(location, part):
            _show_part(part_of(location, part), summarise(part_of(location, part)))


def show_built(builds: Sequence[CacheBuild], *, study: bool) -> None:
    """Print what was built, and what to write into the recipe."""
    missing = 0
    for build in builds:
        for folder in build.folders:
            if not folder.joinpath("identity.json").is_file():
                echo(f"{folder}: not started; its rows are the answers, which other workers have not finished")
                missing += 1
                continue
            summary = summarise(folder)
            missing += summary.missing_shards
            _show_part(str(folder), summary)
    if missing:
        echo("not complete: other workers' shards are missing; run the same command for every worker")
    elif study:
        echo("complete; distillab compare reads it with the same recipe")
    else:
        echo("complete; the line for the recipe:")
        echo(f"teacher: {{cache: {builds[0].location}}}")


def show_estimate(found: Sequence[tuple[CacheBuild, Sequence[PartEstimate]]]) -> bool:
    """Print what a build would cost; return False if the disk has no room for it."""
    needed = 0
    for build, parts in found:
        for part in parts:
            echo(f"{part.folder}  ({part.source})")
            echo(f"  rows {part.rows:,}   tokens {part.tokens:,}   scored tokens {part.scored_tokens:,}")
            for kind, size in part.kind_bytes.items():
                mark = "  (measured on some rows)" if kind in part.measured else ""
                echo(f"  {kind:<17} {size:>15,} bytes{mark}")
            echo(f"  {'in all':<17} {part.total_bytes:>15,} bytes, {_each(part.total_bytes, part.scored_tokens)}")
            echo(f"  teacher           {part.teacher_s:>15,.1f} s on this machine, measured on some batches")
            needed += part.total_bytes
        if build.text:
            echo(f"{build.location}/text: the length of the teacher's answers is not known in advance")
            settings = build.inputs.recipe.teacher_answers
            answers = len(build.inputs.train) * settings.answers_per_prompt
            echo(f"  at most {answers:,} answers of at most {settings.max_new_tokens:,} tokens")
        if build.answers:
            echo(f"{build.location}/answers: its rows are these answers, so its size is not known in advance")
    free = free_bytes(found[0][0].location)
    echo(f"needed in all {needed:,} bytes; free on the disk {free:,} bytes")
    if needed > free:
        echo("the disk has no room for it: store less (another kind, fewer layers, store: int8), or set cache.folder")
    return needed <= free


def show_verified(location: str, *, discard: bool) -> bool:
    """Print every part's state; return True if all are sound and complete."""
    fine = True
    for part in PARTS:
        if has_part(location, part):
            place = part_of(location, part)
            fine = _show_verified(place, discard=discard) and fine
    for fault in location_faults(location):
        fine = False
        echo(f"{location}: DAMAGED")
        echo("  " + str(fault).replace("\n", "\n  "))
    if tokenizer_is_sealed(location):
        return fine
    echo(f"{location}: its tokenizer has no seal (an older version wrote it, or this is one part), and is not checked")
    return fine


def _show_verified(place: str, *, discard: bool) -> bool:
    if discard:
        # verified again below, so that the report shows the state after the removal
        found = discard_damaged(Path(place).expanduser())
        if not found.sound:
            _show_damage(found)
            echo("  removed; the same distillab cache build makes it again")
    shards = shards_of(read_identity(open_source(place)))
    with Progress(f"verifying {place}", total=shards, unit="shards") as progress:
        report = verify(place, on_shard=lambda _: progress.advance())
    state = "sound" if report.sound else "DAMAGED"
    echo(f"{place}: {state}; {report.rows:,} rows, {report.stored_bytes:,} bytes read and checked")
    _show_damage(report)
    if report.missing:
        echo(f"  not complete: {len(report.missing):,} of {report.shards + len(report.missing):,} shards are missing")
        echo("  fix: run the same distillab cache build again")
    return report.complete


def _show_damage(report: VerifyReport) -> None:
    errors: list[CacheError] = [*report.damaged.values(), *([report.head] if report.head else [])]
    for error in errors:
        echo("  " + str(error).replace("\n", "\n  "))
    for line in report.lists:
        echo(f"  damaged list: {line}")
    if report.order:
        echo(f"  the rows are not those of the identity: {report.order}")
    if not report.sound and "://" not in report.location:
        echo(f"  fix: distillab cache verify {report.location} --discard, then the same distillab cache build again")


def _show_part(place: str, summary: CacheSummary) -> None:
    identity = summary.identity
    teacher = identity.teacher
    shards = summary.shards + summary.missing_shards
    state = "complete" if summary.complete else f"{summary.missing_shards:,} of {shards:,} shards are missing"
    echo(f"{place}  ({state})")
    echo(f"  teacher      {teacher.name}, {teacher.parameters:,} parameters, {teacher.dtype}")
    echo(f"               weights {teacher.weights_sha256[:12]}, revision {identity.revision or 'none'}")
    echo(f"  rows         {identity.source}: {summary.rows:,} rows of {identity.rows:,} in {summary.shards:,} shards")
    echo(f"               {summary.tokens:,} tokens, {summary.scored_tokens:,} of them scored")
    echo(f"  read with    tokenizer {identity.tokenizer[:12]}, template {identity.template_sha256[:12]}")
    for layout in (identity.tokens, *identity.layouts):
        echo(f"  {layout.kind:<16} {summary.kind_bytes[layout.kind]:>13,} bytes: {layout.described()}")
    if summary.head_bytes:
        echo(f"  {'head':<16} {summary.head_bytes:>13,} bytes: once")
    echo(f"  in all       {summary.total_bytes:,} bytes, {_each(summary.total_bytes, summary.scored_tokens)}")
    echo(f"  compression  {identity.compression}   seed {identity.seed}   format {identity.format_version}")
    echo(f"  fingerprint  {identity.fingerprint}")


def _each(total: int, scored: int) -> str:
    return f"{total / scored:,.1f} bytes a scored token" if scored else "no scored token yet"

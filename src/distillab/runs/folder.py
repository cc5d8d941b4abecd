"""Claim the folder of a run or a study, and write, read and verify the files of a finished run."""

from __future__ import annotations

import hashlib
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

from distillab.config.identity import identity_settings
from distillab.config.run import RunRecipe
from distillab.config.study import StudyRecipe
from distillab.errors import ConfigError, DataError
from distillab.evaluation.protocol import EvaluationResult
from distillab.files import file_sha256, read_json, read_json_lines, sync, write_json, write_json_lines
from distillab.records import TASK_SCORES, RunRecord, read_record
from distillab.runs.lock import LOCK
from distillab.teachers.served.journal import FOLDER as SERVED
from distillab.training.projectors import FILE as PROJECTORS

RECIPE, STUDY = "recipe.json", "study.json"
RECORD, HELD_OUT, STUDENT, TRANSPORT = "run.json", "held_out.jsonl", "student", "transport.safetensors"
_AGAIN = "restore the folder from a copy; or delete its run.json, and the same command repeats the run"
Fingerprints = dict[str, str] | dict[str, dict[str, str]]


def identity_of(recipe: RunRecipe | StudyRecipe, *, fingerprints: Fingerprints) -> str:
    """Hash all that decides the figures of a run or a study: its settings, and the files behind them.

    Args:
        fingerprints: of the rows and weights behind the recipe's paths.
    """
    facts = {"recipe": identity_settings(recipe), "fingerprints": fingerprints}
    return hashlib.sha256(json.dumps(facts, sort_keys=True, allow_nan=False).encode()).hexdigest()


def claim(
    folder: Path,
    recipe: RunRecipe | StudyRecipe,
    *,
    fingerprints: Fingerprints,
) -> str:
    """Claim a folder for one run or study, or resume the same one; return its identity.

    Args:
        fingerprints: of the rows and weights behind the recipe's paths (of a study: of every arm), so that a changed
            file is detected.
    Raises:
        ConfigError: the folder holds a run of another recipe, of other files, or something else.
    """
    require_claimable(folder, recipe, fingerprints=fingerprints)
    identity = identity_of(recipe, fingerprints=fingerprints)
    path = folder / _name(recipe)
    if not path.exists():
        facts = {"fingerprints": fingerprints, "identity": identity}
        write_json(path, recipe.model_dump(mode="json") | facts)
    return identity


def require_claimable(
    folder: Path,
    recipe: RunRecipe | StudyRecipe,
    *,
    fingerprints: Fingerprints,
) -> None:
    """Check that `claim` would accept the folder. Nothing is written.

    Raises:
        ConfigError: it would not.
        DataError: its recipe.json or study.json is damaged.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError("The output is a file, and must be a folder.", where=str(folder), fix="set another output")
    path = folder / _name(recipe)
    if path.exists():
        stored = read_json(path)
        known = stored.get("identity") if isinstance(stored, dict) else None
        if known != identity_of(recipe, fingerprints=fingerprints):
            current = json.loads(json.dumps(identity_settings(recipe) | {"fingerprints": fingerprints}))
            differing = _differences(stored, current)
            raise ConfigError(
                "The output folder holds a run or study of another recipe, or of files that have changed since.",
                where=str(folder),
                facts=differing[:8] or ["an earlier version of distillab made it"],
                fix=_fix(recipe, folder, differing),
            )
        return
    # `distillab cache build` of the same recipe can have made a cache there before, and stored answers of a server
    if folder.is_dir() and any(item.name not in ("cache", SERVED, LOCK) for item in folder.iterdir()):
        raise ConfigError(
            "The output folder is not empty, and distillab did not make it.",
            where=str(folder),
            fix="set another output folder",
        )


def _fix(recipe: RunRecipe | StudyRecipe, folder: Path, differing: list[str]) -> str:
    """Return the fix; if only the number of steps differs, why that is another run."""
    if isinstance(recipe, RunRecipe) and [line.partition(":")[0] for line in differing] == ["training.steps"]:
        return (
            "set another output: the schedule, the curve and the budget follow from the number of steps, so it is "
            "another run; or train its student further, as a separate run: "
            f"student.path={folder}/student output=…"
        )
    return "set another output, or delete this folder"


def _name(recipe: RunRecipe | StudyRecipe) -> str:
    return STUDY if isinstance(recipe, StudyRecipe) else RECIPE


def _differences(stored: Any, current: Any, key: str = "") -> list[str]:
    """Return what differs, of the keys of `current`; settings without effect on results are in `stored` alone."""
    if isinstance(stored, dict) and isinstance(current, dict):
        return [
            line
            for name in sorted(current)
            for line in _differences(stored.get(name), current[name], f"{key}.{name}".lstrip("."))
        ]
    if isinstance(stored, list) and isinstance(current, list) and len(stored) == len(current):
        pairs = zip(stored, current, strict=True)
        if any(isinstance(item, dict) for item in current):
            return [line for n, (a, b) in enumerate(pairs) for line in _differences(a, b, f"{key}.{n}")]
    return [] if stored == current else [f"{key}: there {stored!r}, now {current!r}"]


def write_held_out(path: Path, result: EvaluationResult) -> None:
    """Write one line a held-out row: its sums, and the written answer where there is one, with its ids and scores.

    The first has the nats of each of its scored tokens too, and of each task the scores of its documents.
    """
    scores, written = result.scores, result.written
    columns = {"nats": scores.nats, "eos_nats": scores.eos_nats, "tokens": scores.tokens, "kl": scores.kl}
    known = {name: column.tolist() for name, column in columns.items() if column is not None}
    known |= {"tokens": scores.tokens.long().tolist(), "bytes": list(result.scored_bytes)}
    lines: list[dict[str, Any]] = [
        {"key": key, **{name: column[row] for name, column in known.items()}} for row, key in enumerate(scores.keys)
    ]
    if lines and scores.first_row_nats is not None:
        lines[0]["token_nats"] = scores.first_row_nats.tolist()
    if result.task_scores:
        lines[0][TASK_SCORES] = dict(result.task_scores)
    lines += [{} for _ in written.answers[len(lines) :]]
    for row, (line, answer, ids) in enumerate(zip(lines, written.answers, written.ids, strict=False)):
        judged = {name: of_rows[row] for name, of_rows in written.judged.scores.items()}
        line |= {"answer": answer, "ids": list(ids), "scores": judged, **(result.own[row] if result.own else {})}
    write_json_lines(path, lines)


def read_held_out(path: Path) -> list[dict[str, Any]]:
    """Read the lines that `write_held_out` wrote.

    Raises:
        DataError: the file is damaged or missing.
    """
    return read_json_lines(path)


def files_left(folder: Path) -> dict[str, str]:
    """Name -> sha256 of every file that a run's record names, safe on disk."""
    single = [path for path in (folder / HELD_OUT, folder / PROJECTORS, folder / TRANSPORT) if path.is_file()]
    paths = [*single, *sorted(path for path in (folder / STUDENT).rglob("*") if path.is_file())]
    for path in (*paths, folder / STUDENT, folder):
        sync(path)
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in paths}


def read_finished(folder: Path, *, arm: str, seed: int, identity: str) -> RunRecord | None:
    """Read the record of a run, with every file that it names checked; None if the run is not finished.

    Args:
        identity: of the run that is expected here.
    Raises:
        DataError: the record is damaged, or of another run, or a file is not the one that it names.
    """
    path = folder / RECORD
    if not path.exists():
        return None
    record = read_record(RunRecord, path, fix=_AGAIN)
    expected = {"arm": arm, "seed": str(seed), "identity": identity}
    found = {"arm": record.arm, "seed": str(record.seed), "identity": record.identity}
    wrong = [
        f"{name}: expected {value}, there {found[name]}" for name, value in expected.items() if found[name] != value
    ]
    if wrong:
        raise DataError("The record is that of another run.", where=str(path), facts=wrong, fix=_AGAIN)
    require_unchanged(folder, record.files, fix=_AGAIN)
    return record


def require_unchanged(folder: Path, files: dict[str, str], *, fix: str) -> None:
    """Check files against the hashes in a record.

    Args:
        files: name -> sha256.
        fix: of the error.
    Raises:
        DataError: a file is missing, or has changed.
    """
    wrong = []
    for name, digest in files.items():
        path = folder / name
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif sha256_of(path) != digest:
            wrong.append(f"{name} has changed since the record was written")
    if wrong:
        raise DataError("Files of a finished run have changed since.", where=str(folder), facts=wrong[:8], fix=fix)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file; a file of the same size and modification time is not read again."""
    stat = path.stat()
    return _sha256(os.path.realpath(path), stat.st_size, stat.st_mtime_ns)


@cache
def _sha256(path: str, size: int, time_ns: int) -> str:
    return file_sha256(Path(path))

"""The folder of a run or of a study: who may use it, and the held-out figures it keeps."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from distillab.config.identity import identity_settings
from distillab.config.models import RunRecipe, StudyRecipe
from distillab.errors import ConfigError
from distillab.evaluation.protocol import EvaluationResult
from distillab.files import read_json, read_json_lines, write_json, write_json_lines
from distillab.runs.lock import LOCK

RECIPE, STUDY = "recipe.json", "study.json"
Fingerprints = dict[str, str] | dict[str, dict[str, str]]


def identity_of(recipe: RunRecipe | StudyRecipe, *, fingerprints: Fingerprints, demonstrates: str | None = None) -> str:
    """sha256 of all that decides the figures of a run or a study: its settings, and the files behind them.

    Args:
        fingerprints: of the rows and weights behind the recipe's paths.
        demonstrates: the failure that it shows on purpose.
    """
    facts = {"recipe": identity_settings(recipe), "fingerprints": fingerprints, "demonstrates": demonstrates}
    return hashlib.sha256(json.dumps(facts, sort_keys=True, allow_nan=False).encode()).hexdigest()


def claim(
    folder: Path,
    recipe: RunRecipe | StudyRecipe,
    *,
    fingerprints: Fingerprints,
    demonstrates: str | None = None,
) -> str:
    """Take a folder for one run or one study, or go on with the same one; returns its identity.

    Args:
        fingerprints: of the rows and weights behind the recipe's paths (of a study: of every arm), so that a file
            that has changed since is noticed.
    Raises:
        ConfigError: the folder holds a run of another recipe, of other files, or something else.
    """
    require_claimable(folder, recipe, fingerprints=fingerprints, demonstrates=demonstrates)
    identity = identity_of(recipe, fingerprints=fingerprints, demonstrates=demonstrates)
    path = folder / _name(recipe)
    if not path.exists():
        facts = {"fingerprints": fingerprints, "demonstrates": demonstrates, "identity": identity}
        write_json(path, recipe.model_dump(mode="json") | facts)
    return identity


def require_claimable(
    folder: Path,
    recipe: RunRecipe | StudyRecipe,
    *,
    fingerprints: Fingerprints,
    demonstrates: str | None = None,
) -> None:
    """Check that `claim` would take the folder. Nothing is written.

    Raises:
        ConfigError: it would not.
        DataError: its recipe.json or study.json is damaged.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError("The output is a file, and must be a folder.", where=str(folder), fix="set another output")
    path = folder / _name(recipe)
    if path.exists():
        there = read_json(path)
        known = there.get("identity") if isinstance(there, dict) else None
        if known != identity_of(recipe, fingerprints=fingerprints, demonstrates=demonstrates):
            facts = {"fingerprints": fingerprints, "demonstrates": demonstrates}
            mine = json.loads(json.dumps(identity_settings(recipe) | facts))
            differing = _differences(there, mine)
            raise ConfigError(
                "The output folder holds the work of another recipe, or of files that have changed since.",
                where=str(folder),
                facts=differing[:8] or ["an earlier version of distillab made it"],
                fix=_fix(recipe, folder, differing),
            )
        return
    # a cache may have been built there before (`distillab cache build` of the same recipe)
    if folder.is_dir() and any(item.name not in ("cache", LOCK) for item in folder.iterdir()):
        raise ConfigError(
            "The output folder is not empty, and distillab did not make it.",
            where=str(folder),
            fix="set another output folder",
        )


def _fix(recipe: RunRecipe | StudyRecipe, folder: Path, differing: list[str]) -> str:
    """The way out; where more or fewer steps alone are asked for, what that would mean."""
    if isinstance(recipe, RunRecipe) and [line.partition(":")[0] for line in differing] == ["training.steps"]:
        return (
            "set another output: the schedule, the curve and the budget follow from the number of steps, so it is "
            "another run; or train on what this one has made, as a run of its own: "
            f"student.path={folder}/student output=…"
        )
    return "set another output, or delete this folder"


def _name(recipe: RunRecipe | StudyRecipe) -> str:
    return STUDY if isinstance(recipe, StudyRecipe) else RECIPE


def _differences(there: Any, mine: Any, key: str = "") -> list[str]:
    """What differs, among all that stands in `mine`; what decides nothing stands only in `there`."""
    if isinstance(there, dict) and isinstance(mine, dict):
        return [
            line
            for name in sorted(mine)
            for line in _differences(there.get(name), mine[name], f"{key}.{name}".lstrip("."))
        ]
    if isinstance(there, list) and isinstance(mine, list) and len(there) == len(mine):
        pairs = zip(there, mine, strict=True)
        if any(isinstance(item, dict) for item in mine):
            return [line for n, (a, b) in enumerate(pairs) for line in _differences(a, b, f"{key}.{n}")]
    return [] if there == mine else [f"{key}: there {there!r}, now {mine!r}"]


def write_held_out(path: Path, judged: EvaluationResult) -> None:
    """One line a held-out row: key, nats, tokens, and the generated answer where there is one."""
    scores, answers = judged.scores, judged.answers
    lines: list[dict[str, Any]] = [
        {"key": key, "nats": float(nats), "tokens": int(tokens)}
        for key, nats, tokens in zip(scores.keys, scores.nats, scores.tokens, strict=True)
    ]
    lines += [{} for _ in answers[len(lines) :]]
    for line, answer in zip(lines, answers, strict=False):
        line["answer"] = answer
    write_json_lines(path, lines)


def read_held_out(path: Path) -> list[dict[str, Any]]:
    """The lines that `write_held_out` wrote.

    Raises:
        DataError: the file is damaged or gone.
    """
    return read_json_lines(path)

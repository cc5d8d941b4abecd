"""The folder of a run: who may use it, and the held-out figures it keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distillab.config.models import RunRecipe, StudyRecipe
from distillab.errors import ConfigError, DataError
from distillab.evaluation.protocol import Judged
from distillab.records import RunRecord, read_record


def claim(
    folder: Path, recipe: RunRecipe, *, fingerprints: dict[str, str], demonstrates: str | None
) -> RunRecord | None:
    """Take a folder for one run. Returns the record where the run is finished already.

    Args:
        fingerprints: of the rows and weights behind the recipe's paths, so that a file that has changed since
            is noticed.
    Raises:
        ConfigError: the folder holds a run of another recipe, of other files, or something else.
    """
    facts = {"fingerprints": fingerprints, "demonstrates": demonstrates}
    _take(folder, "recipe.json", json.loads(recipe.model_dump_json()) | facts)
    finished = folder / "run.json"
    return read_record(RunRecord, finished) if finished.exists() else None


def claim_study(folder: Path, recipe: StudyRecipe, *, fingerprints: dict[str, dict[str, str]]) -> None:
    """Take a folder for one study, or go on with the same one.

    Args:
        fingerprints: of the files behind every arm.
    Raises:
        ConfigError: the folder holds another study, the same of other files, or something else.
    """
    _take(folder, "study.json", _of_study(recipe, fingerprints))


def require_same_study(folder: Path, recipe: StudyRecipe, *, fingerprints: dict[str, dict[str, str]]) -> None:
    """Check that `claim_study` would take the folder. Nothing is written.

    Raises:
        ConfigError: it would not.
    """
    _require_same(folder, "study.json", _of_study(recipe, fingerprints))


def _of_study(recipe: StudyRecipe, fingerprints: dict[str, dict[str, str]]) -> dict[str, Any]:
    return json.loads(recipe.model_dump_json()) | {"fingerprints": fingerprints}


def _take(folder: Path, name: str, mine: dict[str, Any]) -> None:
    _require_same(folder, name, mine)
    path = folder / name
    if path.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(mine, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def _require_same(folder: Path, name: str, mine: dict[str, Any]) -> None:
    path = folder / name
    if path.exists():
        there = json.loads(path.read_text(encoding="utf-8"))
        differing = sorted(_differences(there, mine))
        if differing:
            raise ConfigError(
                "The output folder holds the work of another recipe, or of files that have changed since.",
                where=str(folder),
                facts=differing[:8],
                fix="set another output, or delete this folder",
            )
        return
    # a cache may have been built there before (`distillab cache build` of the same recipe)
    if folder.is_dir() and any(item.name != "cache" for item in folder.iterdir()):
        raise ConfigError(
            "The output folder is not empty, and distillab did not make it.",
            where=str(folder),
            fix="set another output folder",
        )


def _differences(there: Any, mine: Any, key: str = "") -> list[str]:
    if isinstance(there, dict) and isinstance(mine, dict):
        return [
            line
            for name in sorted({*there, *mine})
            for line in _differences(there.get(name), mine.get(name), f"{key}.{name}".lstrip("."))
        ]
    return [] if there == mine else [f"{key}: there {there!r}, now {mine!r}"]


def write_held_out(path: Path, judged: Judged) -> None:
    """One line a held-out row: key, nats, tokens, and the generated answer where there is one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for index, key in enumerate(judged.scores.keys):
        line: dict[str, Any] = {
            "key": key,
            "nats": float(judged.scores.nats[index]),
            "tokens": int(judged.scores.tokens[index]),
        }
        if index < len(judged.answers):
            line["answer"] = judged.answers[index]
        lines.append(json.dumps(line, ensure_ascii=False))
    for index in range(len(judged.scores.keys), len(judged.answers)):
        lines.append(json.dumps({"answer": judged.answers[index]}, ensure_ascii=False))
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    temporary.replace(path)


def read_held_out(path: Path) -> list[dict[str, Any]]:
    """The lines that `write_held_out` wrote."""
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise DataError("The held-out figures of a run cannot be read.", where=str(path)) from error

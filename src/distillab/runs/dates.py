"""Fix the date that chat templates write: one for all runs of a study, the same when it resumes on another day.

A template can write today's date (`strftime_now`). With the clock's date, an arm that is run tomorrow would be
trained on other prompts than the others, and a cache would be valid for one day.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar, cast

from distillab.cache.folder import read_identity
from distillab.cache.sources import open_source
from distillab.config.run import RunRecipe
from distillab.config.study import StudyRecipe
from distillab.errors import DataError
from distillab.files import read_json
from distillab.teachers.stored.location import PARTS, has_part, part_of

FINGERPRINT = "template_date"
_Recipe = TypeVar("_Recipe", bound=RunRecipe | StudyRecipe)


def dated(recipe: _Recipe, *, builds: bool = False) -> _Recipe:
    """Return the recipe with its date.

    That is the date in the recipe, else of the run or study in its output folder, else of a cache that it reads or that
    was built for it, else today's.

    Args:
        builds: the recipe is that of a cache that is being built.
    Raises:
        CacheMismatch, CacheCorrupt: a cache that it names does not exist, or is damaged.
        DataError: the record in its output folder is damaged.
    """
    if recipe.data.date is not None:
        return recipe
    day = _in_output(recipe) or _in_caches(recipe, builds) or datetime.date.today()
    data = recipe.data.model_copy(update={"date": day})
    return cast(_Recipe, recipe.model_copy(update={"data": data}))


def _in_output(recipe: RunRecipe | StudyRecipe) -> datetime.date | None:
    """Return the date in the record of the output folder."""
    study = isinstance(recipe, StudyRecipe)
    path = Path(recipe.output) / ("study.json" if study else "recipe.json")
    if not path.is_file():
        return None
    content = read_json(path)
    fingerprints = content.get("fingerprints", {}) if isinstance(content, dict) else {}
    arms = fingerprints.values() if study else [fingerprints]
    found = next((arm[FINGERPRINT] for arm in arms if FINGERPRINT in arm), None)
    try:
        return None if found is None else datetime.date.fromisoformat(found)
    except ValueError as error:
        raise DataError(
            "The record has a template_date that is no date.", where=str(path), facts=[str(error)]
        ) from error


def _in_caches(recipe: RunRecipe | StudyRecipe, builds: bool) -> datetime.date | None:
    """Return the date of the caches that the recipe reads, else of those that `cache build` made of the same recipe."""
    if isinstance(recipe, StudyRecipe):
        teachers = [teacher for arm in recipe.arms for teacher in recipe.teachers_of(arm).values()]
    else:
        teachers = list(recipe.each_teacher.values())
    read = [teacher.cache for teacher in teachers if teacher.cache is not None]
    folder = recipe.cache.folder if recipe.cache is not None else None
    built = Path(folder) if folder is not None else Path(recipe.output) / "cache"
    own = [built] if builds else []
    if isinstance(recipe, StudyRecipe):  # one location a teacher
        own = sorted(built.iterdir()) if built.is_dir() else []
    return next(_days(read), None) or max(_days(map(str, own)), default=None)


def _days(locations: Iterable[str]) -> Iterator[datetime.date]:
    for location in locations:
        for part in PARTS:
            if has_part(location, part):
                day = read_identity(open_source(part_of(location, part))).template_date
                if day is not None:
                    yield day

"""The day that chat templates read: one for all runs of a work, the same when it goes on tomorrow.

A template may write today's date (`strftime_now`). Read from the clock, an arm that is made again tomorrow would be
trained on other prompts than its neighbours, and a cache would serve for one day.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar, cast

from distillab.cache.folder import read_identity
from distillab.cache.sources import open_source
from distillab.config.models import RunRecipe, StudyRecipe
from distillab.errors import DataError
from distillab.files import read_json
from distillab.teachers.cache_parts import PARTS, has_part, part_of

FINGERPRINT = "template_date"
_Recipe = TypeVar("_Recipe", bound=RunRecipe | StudyRecipe)


def dated(recipe: _Recipe, *, builds: bool = False) -> _Recipe:
    """The recipe with its day.

    It is that which the recipe names, else that of the work which its folder holds, else that of a cache that it reads
    or that was built for it, else today.

    Args:
        builds: the cache of a run is what is made.
    Raises:
        CacheMismatch, CacheCorrupt: a cache that it names is none, or is damaged.
        DataError: the record of the work in its folder is damaged.
    """
    if recipe.data.date is not None:
        return recipe
    day = _of_the_work(recipe) or _of_a_cache(recipe, builds) or datetime.date.today()
    data = recipe.data.model_copy(update={"date": day})
    return cast(_Recipe, recipe.model_copy(update={"data": data}))


def _of_the_work(recipe: RunRecipe | StudyRecipe) -> datetime.date | None:
    """The day that stands in the output folder."""
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
            "The record holds no day where one should stand.", where=str(path), facts=[str(error)]
        ) from error


def _of_a_cache(recipe: RunRecipe | StudyRecipe, builds: bool) -> datetime.date | None:
    """The day of the caches that are read, else of those that `cache build` has made of the same recipe."""
    teachers = [recipe.teacher]
    if isinstance(recipe, StudyRecipe):
        teachers += [arm.teacher for arm in recipe.arms]
    read = [teacher.cache for teacher in teachers if teacher is not None and teacher.cache is not None]
    folder = recipe.cache.folder if recipe.cache is not None else None
    built = Path(folder) if folder is not None else Path(recipe.output) / "cache"
    own = [built] if builds else []
    if isinstance(recipe, StudyRecipe):  # there is one location a teacher
        own = sorted(built.iterdir()) if built.is_dir() else []
    return next(_days(read), None) or max(_days(map(str, own)), default=None)


def _days(locations: Iterable[str]) -> Iterator[datetime.date]:
    for location in locations:
        for part in PARTS:
            if has_part(location, part):
                day = read_identity(open_source(part_of(location, part))).template_date
                if day is not None:
                    yield day

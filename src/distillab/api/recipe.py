"""Convert the arguments of the Python interface to one recipe, and the objects in memory that its paths name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from transformers.utils import logging

from distillab.api.given import Model, Rows, Teacher, given, tokenizer_of
from distillab.config.loader import build_recipe
from distillab.config.run import RunRecipe
from distillab.config.study import StudyRecipe
from distillab.config.term_base import BaseTermConfig
from distillab.data.sources import given_rows
from distillab.errors import ConfigError
from distillab.in_memory import IN_MEMORY, ModelInMemory, holding, path_of
from distillab.teachers.stored.location import PARTS, has_part

_Recipe = TypeVar("_Recipe", RunRecipe, StudyRecipe)
Settings = Mapping[str, Any]
"""Settings of a recipe by their path: {"training.schedule": "cosine", "evaluation.generate_rows": 0}."""


class RecipeBuilder:
    """Collect the values of a recipe. An object in memory gets a name, which is valid inside of `held`."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._objects: dict[str, Any] = {}

    def student(self, value: Model) -> None:
        """Set the student."""
        self._model("student", value)

    def teacher(self, value: Teacher | None) -> None:
        """Set the teacher, or its cache where a folder or URL is one; several by their names; None: there is none."""
        if value is None:
            return
        if isinstance(value, Mapping):
            for name, one in value.items():
                self._teacher(f"teachers.{name}", one)
            return
        self._teacher("teacher", value)

    def train(self, value: Rows) -> None:
        """Set the training rows."""
        self.set("data.train.path", self._rows("train", value))

    def held_out(self, value: Rows | float | None) -> None:
        """Set the held-out rows, or the share of the training rows that is held out; None: a tenth."""
        if isinstance(value, float):
            self.set("data.held_out.fraction", value)
        elif value is not None:
            self.set("data.held_out.path", self._rows("held_out", value))

    def set(self, key: str, value: Any) -> None:
        """Set `a.b` of the recipe; None leaves its default.

        Raises:
            ConfigError: it is set already.
        """
        if value is None:
            return
        *parents, last = key.split(".")
        place = self._values
        for part in parents:
            place = place.setdefault(part, {})
        if last in place:
            raise ConfigError("A setting is given twice.", where=key, fix="leave it out of settings")
        place[last] = value

    @property
    def names(self) -> list[str]:
        """The names of the objects in memory."""
        return list(self._objects)

    def path(self, key: str) -> str:
        """Return the path that is set under a key."""
        place: Any = self._values
        for part in key.split("."):
            place = place[part]
        return str(place)

    def build(
        self, kind: type[_Recipe], arguments: Settings, settings: Settings | None = None, *, where: str
    ) -> _Recipe:
        """Make the recipe.

        Args:
            arguments: of the function or class that makes it; None leaves a default.
            settings: further ones of the user.
        Raises:
            ConfigError: an unknown key, a setting that is given twice, or a value that is not allowed.
        """
        for key, value in (*arguments.items(), *(settings or {}).items()):
            self.set(key, value)
        return build_recipe(kind, self._values, (), where=where)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let the recipe's names stand for the objects, inside of the block."""
        with holding(self._objects):
            yield

    def _teacher(self, role: str, value: Model) -> None:
        if isinstance(value, str | os.PathLike):
            path = os.fspath(value)
            self.set(f"{role}.cache" if any(has_part(path, part) for part in PARTS) else f"{role}.path", path)
            return
        self._model(role, value)

    def _model(self, role: str, value: Model) -> None:
        found = given(value, role=role)
        if found.model is None:
            if found.path is None:
                raise ConfigError(
                    f"The {role} is given as a tokenizer alone, and its weights are needed.",
                    fix=f"give {role}=(model, tokenizer), or the folder that holds both",
                )
            if found.tokenizer is not None:
                raise ConfigError(
                    f"The {role} is given as a path with a tokenizer in memory.",
                    fix=f"give (model, tokenizer), or the path, with the tokenizer's path under {role}.tokenizer",
                )
            self.set(f"{role}.path", found.path)
            return
        assert found.bare is not None
        self._objects[role] = ModelInMemory(found.model, found.bare.config, tokenizer_of(found, role=role))
        self.set(f"{role}.path", path_of(role))

    def _rows(self, name: str, value: Rows) -> str:
        if isinstance(value, str | os.PathLike):
            return os.fspath(value)
        self._objects[name] = given_rows(value, name=f"{name}, {IN_MEMORY}")
        return path_of(name)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bars out of the output of the block."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def terms_of(terms: Sequence[BaseTermConfig] | None) -> tuple[BaseTermConfig, ...] | None:
    """Return the terms that replace those of the method.

    Raises:
        ConfigError: something that is no term's settings.
    """
    for term in terms or ():
        if not isinstance(term, BaseTermConfig):
            raise ConfigError(
                "An item of terms is not a term.",
                facts=[f"given: {term!r}"],
                fix="write dl.terms.TokenDivergence(…); a function: dl.terms.CustomLoss(loss=function)",
            )
    return None if terms is None else tuple(terms)

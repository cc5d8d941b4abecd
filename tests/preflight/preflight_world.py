"""Setups of the self-test on a tiny pair of real models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from distillab.config.cache import CacheConfig
from distillab.config.run import RunRecipe
from distillab.preflight.setup import Arm, Setup, setups_of
from distillab.runs.inputs import RunInputs, load_inputs
from distillab.runs.student import load_student
from distillab.runs.teacher import RunTeacher

Change = Callable[[PreTrainedModel], object]


class World:
    """Setups of a tiny pair; tokenizers and rows are read once for each pair."""

    def __init__(self, values: dict[str, Any], scratch: Path) -> None:
        self._values = {key: value for key, value in values.items() if key != "seeds"}
        self._scratch = scratch
        self._prepared: dict[str, RunInputs] = {}
        self._made = 0

    @property
    def teacher(self) -> str:
        """Its folder."""
        return str(self._values["teacher"]["path"])

    def arm(self, name: str = "arm", *, settings: CacheConfig | None = None, **changes: Any) -> Arm:
        training = {**self._values["training"], "checkpoint_every": None, **changes.pop("training", {})}
        recipe = RunRecipe(**{**self._values, "output": str(self._scratch / "run"), "training": training, **changes})
        assert recipe.teacher is not None
        key = recipe.model_dump_json(include={"student", "teacher", "data"})
        if key not in self._prepared:
            self._prepared[key] = load_inputs(recipe)
        loaded = self._prepared[key]
        inputs = loaded.with_recipe(recipe.model_copy(update={"data": loaded.recipe.data}))
        return Arm(name, inputs, RunTeacher(inputs), settings or CacheConfig())

    def setups(self, *arms: Arm, student: Change | None = None) -> list[Setup]:
        original = load_student(arms[0].inputs)
        if student is not None:
            student(original)
        self._made += 1
        return setups_of(arms, original, scratch=self._scratch / str(self._made))

    def setup(self, *, student: Change | None = None, settings: CacheConfig | None = None, **changes: Any) -> Setup:
        return self.setups(self.arm(settings=settings, **changes), student=student)[0]

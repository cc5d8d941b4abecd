"""The command line in this process, and recipes of the tiny world."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from distillab.cli.main import main

Run = Callable[..., tuple[int, str, str]]


def call(*words: str) -> tuple[int, str, str]:
    """Run the command line in this process; returns exit code, standard output and standard error."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["distillab", *words])
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return code, out.getvalue(), err.getvalue()


@pytest.fixture
def run() -> Run:
    """`call`."""
    return call


def dumped(values: dict[str, Any], path: Path) -> str:
    """Write the settings of a recipe as YAML, and return the file's path."""
    with path.open("w") as stream:
        YAML(typ="safe", pure=True).dump(values, stream)
    return str(path)


def write_recipe(folder: Path, tiny_world: dict[str, Any], **changes: Any) -> str:
    """Write a recipe of the tiny world with changes, and return its path."""
    values = {key: value for key, value in tiny_world.items() if key != "seeds"}
    values |= {"method": "sft", "output": str(folder / "run"), **changes}
    return dumped(values, folder / "recipe.yaml")


@pytest.fixture
def recipe(tiny_world: dict[str, Any], tmp_path: Path) -> Callable[..., str]:
    """`write_recipe` into the test's own folder."""
    return partial(write_recipe, tmp_path, tiny_world)

"""`import distillab`: every name is there, and nothing heavy is loaded before it is used."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import distillab as dl
from distillab.config import terms as settings
from distillab.config.term_base import BaseTermConfig

HEAVY = ("torch", "transformers", "datasets", "numpy", "pandas")


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = f"import sys, distillab.doctor; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", dl.__all__)
def test_every_name_is_there_and_listed(name: str) -> None:
    assert getattr(dl, name) is not None
    assert name in dir(dl)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="distil_all"):
        _ = dl.distil_all


@pytest.mark.parametrize(("package", "others"), [(dl, {"__version__"}), (dl.doctor, set())], ids=["", "doctor"])
def test_editors_see_every_name(package: ModuleType, others: set[str]) -> None:
    """The imports under TYPE_CHECKING are those that `__getattr__` makes."""
    tree = ast.parse(Path(str(package.__file__)).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body for alias in node.names}  # type: ignore[attr-defined]
    assert {*seen} | others == set(package.__all__) <= set(dir(package))
    for name, module in seen.items():
        found = getattr(importlib.import_module(str(module)), name, None)
        assert getattr(package, name) is (found or sys.modules[f"{module}.{name}"])


def test_every_term_is_a_name_of_terms() -> None:
    classes = [value for value in vars(settings).values() if isinstance(value, type)]
    kinds = {kind for kind in classes if "kind" in vars(kind).get("__annotations__", {})}
    assert all(issubclass(kind, BaseTermConfig) for kind in kinds)
    assert {kind.__name__.removesuffix("Config") for kind in kinds} | {"LinearWeight"} == set(dl.terms.__all__)
    assert all(getattr(dl.terms, kind.__name__.removesuffix("Config")) is kind for kind in kinds)

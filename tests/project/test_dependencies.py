"""What the package imports is what it declares: nothing undeclared, nothing declared in vain."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Where the name of the module is not the name of the package.
PACKAGE_OF = {
    "yaml": "PyYAML",
    "rouge_score": "rouge-score",
    "ruamel": "ruamel.yaml",
    "huggingface_hub": "huggingface-hub",
    "google": "protobuf",
}
# Needed by transformers.Trainer, which imports it for us.
NOT_IMPORTED_BY_US = {"accelerate"}


@cache
def parsed() -> dict[Path, ast.Module]:
    """Every file of the package."""
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "src").rglob("*.py")}


@cache
def imported() -> dict[str, Path]:
    """Top-level module -> one file that imports it, also inside functions."""
    found: dict[str, Path] = {}
    for path, module in parsed().items():
        for node in ast.walk(module):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            for name in names:
                found.setdefault(name.split(".")[0], path)
    return {name: path for name, path in found.items() if name not in sys.stdlib_module_names and name != "distillab"}


def declared() -> dict[str, str]:
    """Package -> requirement of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {re.split(r"[<>=!~\[ ;]", item)[0]: item for item in project["dependencies"]}


def extras() -> dict[str, str]:
    """Package -> requirement, of what a user may add: distillab[zstd]."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = project["optional-dependencies"]
    return {re.split(r"[<>=!~\[ ;]", item)[0]: item for name in groups if name != "dev" for item in groups[name]}


def imported_with_the_module() -> set[str]:
    """Names of the imports that stand outside functions: without those packages the module cannot be imported."""
    found: set[str] = set()
    for module in parsed().values():
        for node in module.body:
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    return found


def test_every_import_is_declared() -> None:
    undeclared = {
        name: str(path.relative_to(ROOT))
        for name, path in imported().items()
        if PACKAGE_OF.get(name, name) not in declared() | extras()
    }
    assert not undeclared


def test_what_is_optional_is_imported_only_where_it_is_used() -> None:
    assert not imported_with_the_module() & (set(extras()) - set(declared()))


def test_nothing_is_declared_in_vain() -> None:
    used = {PACKAGE_OF.get(name, name) for name in imported()}
    assert set(declared()) - used <= NOT_IMPORTED_BY_US


def test_bounds_are_lower_bounds() -> None:
    for package, requirement in (declared() | extras()).items():
        assert re.fullmatch(re.escape(package) + r">=[0-9][0-9.]*", requirement), requirement


def test_what_the_package_needs_is_pinned_exactly_and_torch_comes_first() -> None:
    lines = (ROOT / "constraints" / "setup.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins[0].startswith("torch==")
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.+]*", pin) for pin in pins)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["dev"]]

    def names(packages: list[str]) -> list[str]:
        return [re.sub(r"[-_.]+", "-", re.split(r"[<>=!~\[ ;]", one)[0]).lower() for one in packages]

    assert set(names(needed)) <= set(names(pins)) and len(set(names(pins))) == len(pins)

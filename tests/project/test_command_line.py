"""`--help` answers at once and loads nothing heavy; the tree of errors is as drawn."""

from __future__ import annotations

import importlib.util
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distillab import errors

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = (
    "init",
    "check",
    "data",
    "prune",
    "train",
    "compare",
    "estimate",
    "export",
    "cache",
    "teacher",
    "doctor",
    "report",
    "schema",
    "show",
    "recipes",
    "demo",
)
HEAVY = ("torch", "transformers", "datasets", "tokenizers", "numpy", "scipy", "pandas", "pyarrow", "matplotlib")
CALLS = [[], *([name] for name in COMMANDS)]

# Runs the program as its entry point does, and says on standard error which heavy packages came with it.
CHECK_ID = f"""
import atexit, sys
def tell():
    print("heavy:", *[name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
atexit.register(tell)
from distillab.cli.main import main
main()
"""


def environment() -> dict[str, str]:
    """The caller's, without what could hide or add output."""
    dropped = ("DISTILLAB_DEBUG", "PYTHONWARNINGS", "PYTHONPROFILEIMPORTTIME", "COVERAGE_PROCESS_START")
    return {**{k: v for k, v in os.environ.items() if k not in dropped}, "PYTHONPATH": str(ROOT / "src")}


def run_program(arguments: list[str]) -> tuple[subprocess.CompletedProcess[str], float]:
    """Run `distillab` in a fresh process; also the processor's time in seconds, whatever else the machine does."""
    start = _children_s()
    done = subprocess.run(
        [sys.executable, "-c", CHECK_ID, *arguments],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    return done, _children_s() - start


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("command", CALLS, ids=lambda command: command[0] if command else "distillab")
def test_help_is_light_and_quick(command: list[str]) -> None:
    fastest = float("inf")
    for _ in range(5):  # on a busy machine a processor is slower too; the fastest call is the program's own time
        done, seconds = run_program([*command, "--help"])
        assert done.returncode == 0, done.stderr
        assert "Usage:" in done.stdout
        assert re.findall(r"^heavy:(.*)$", done.stderr, flags=re.MULTILINE) == [""]
        fastest = min(fastest, seconds)
        if fastest < 0.7:
            break
    assert fastest < 1.0


def test_the_probe_sees_a_heavy_import() -> None:
    """The test above can fail: the same probe names numpy once something imports it."""
    done = subprocess.run(
        [sys.executable, "-c", f"import numpy\n{CHECK_ID}", "--help"],
        capture_output=True,
        text=True,
        env=environment(),
        check=True,
    )
    assert "heavy: numpy" in done.stderr


def test_every_command_is_listed_with_a_sentence() -> None:
    done, _ = run_program(["--help"])
    listed = re.findall(r"^  ([a-z]+) {2,}\S", done.stdout, flags=re.MULTILINE)
    assert sorted(listed) == sorted(COMMANDS)


def test_the_version_names_what_results_depend_on() -> None:
    import distillab

    done, _ = run_program(["--version"])
    first, second, device, extras = done.stdout.splitlines()
    assert first == f"distillab {distillab.__version__}"
    assert f"torch {torch.__version__}" in second and "transformers " in second
    assert device.startswith("device: ") and "peft " in extras and "ray" in extras


def test_unknown_command_is_wrong_usage() -> None:
    done, _ = run_program(["destil"])
    assert done.returncode == 2
    assert "destil" in done.stderr
    assert "Traceback" not in done.stderr


def drawn_tree() -> dict[str, str | None]:
    """Class -> parent, read from the drawing in the docstring of errors.py."""
    assert errors.__doc__ is not None
    path: list[str] = []
    tree: dict[str, str | None] = {}
    for line in errors.__doc__.splitlines():
        found = re.match(r"^    ([│├└─ ]*)([A-Z]\w+)(?:\s|$)", line)
        if not found:
            continue
        depth = len(found[1]) // 4
        path = [*path[:depth], found[2]]
        tree[found[2]] = path[depth - 1] if depth else None
    return tree


def test_errors_are_as_drawn() -> None:
    classes = {
        name: value for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)
    }
    real = {name: None if name == "DistillabError" else value.__bases__[0].__name__ for name, value in classes.items()}
    assert real == drawn_tree()


def test_every_error_says_when_it_is_raised() -> None:
    for name in drawn_tree():
        assert getattr(errors, name).__doc__, name


def test_an_error_shows_its_four_parts_in_order() -> None:
    error = errors.ConfigError("The rule.", facts=["one side", "other side"], where="recipe.yaml", fix="write this")
    positions = [
        str(error).index(part) for part in ("The rule.", "recipe.yaml", "one side", "other side", "write this")
    ]
    assert positions == sorted(positions)


def test_names_nearest_to_a_mistyped_one() -> None:
    assert '"logits"' in errors.near_names("loggits", ["logits", "sft"])
    assert "sft" not in errors.near_names("loggits", ["logits", "sft"])
    assert errors.near_names("zzz", ["b", "a"]) == "known: a, b"


def test_the_package_is_typed() -> None:
    spec = importlib.util.find_spec("distillab")
    assert spec is not None
    assert spec.origin is not None
    assert (Path(spec.origin).parent / "py.typed").is_file()

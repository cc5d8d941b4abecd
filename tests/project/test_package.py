"""The sdist and the wheel that is built from it hold what the commands read; they work in an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.processes import Forked, ended

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
END = "-- the end of a command --"
# as the installed command, in a process that has the libraries imported: that takes most of the time
IN_TURN = f"""
import json, sys
for name in [name for name in sys.modules if name.partition(".")[0] == "distillab"]:
    del sys.modules[name]
installed, commands = sys.argv[1:]
sys.path.insert(0, installed)
from distillab.cli.main import main
assert main.__code__.co_filename.startswith(installed), main.__code__
for words in json.loads(commands):
    sys.argv[1:] = words
    try:
        main()
    except SystemExit as end:
        assert not end.code, (words, end.code)
    print({END!r})
"""
Commands = Callable[[list[list[str]]], list[str]]


def _python(*words: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if key not in ("DISTILLAB_DEBUG", "PYTHONPATH")}
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, cwd=cwd, env=clean | variables, check=False
    )


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    done = _python("-m", "hatchling", "build", "-t", "sdist", "-d", str(folder), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    (packed,) = folder.glob("*.tar.gz")
    with tarfile.open(packed) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = (path for path in folder.iterdir() if path.is_dir())
    return unpacked


@pytest.fixture(scope="module")
def installed(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which the wheel of the sdist is installed, without what it depends on."""
    folder = tmp_path_factory.mktemp("wheel")
    done = _python("-m", "hatchling", "build", "-t", "wheel", "-d", str(folder), cwd=sdist)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    target = folder / "installed"
    words = ("-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-compile", "--target", str(target))
    done = _python(*words, str(wheel), cwd=folder)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def in_turn(installed: Path, tmp_path: Path) -> Commands:
    """Call commands of the installed wheel in an empty folder; returns what each has printed."""

    def call(commands: list[list[str]]) -> list[str]:
        process = Forked("tests.given_code", IN_TURN, str(installed), json.dumps(commands), folder=tmp_path)
        assert ended(process) == (0, "")
        return process.written("stdout").split(END)[:-1]

    return call


def test_the_sdist_holds_the_repository(sdist: Path) -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode != 0:
        pytest.skip("no git checkout")
    missing = [name for name in tracked.stdout.split() if (ROOT / name).exists() and not (sdist / name).exists()]
    assert missing == []


def test_the_wheel_holds_every_file_of_the_package_and_every_recipe(installed: Path) -> None:
    def names(folder: Path) -> set[str]:
        files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
        return {str(path.relative_to(folder)) for path in files}

    recipes = {f"recipes/{name}" for name in names(ROOT / "recipes")}
    assert names(installed / "distillab") == names(ROOT / "src" / "distillab") | recipes


def test_the_installed_package_is_the_one_that_runs(installed: Path, tmp_path: Path) -> None:
    done = _python("-c", "import distillab; print(distillab.__file__)", cwd=tmp_path, PYTHONPATH=str(installed))
    assert Path(done.stdout.strip()) == installed / "distillab" / "__init__.py"


COMMANDS = (
    (["--help"], "recipes"),
    (["recipes"], "real-small"),
    (["schema", "run"], '"$schema"'),
    (["doctor", "explain", "prompt-in-loss"], "What else to do"),
    (["demo", "--help"], "toy world"),
)


def test_commands_that_read_files_of_the_package(in_turn: Commands) -> None:
    printed = in_turn([words for words, _ in COMMANDS])
    assert all(expected in one for (_, expected), one in zip(COMMANDS, printed, strict=True)), printed


def test_the_command_is_installed(installed: Path, tmp_path: Path) -> None:
    done = _python(str(installed / "bin" / "distillab"), "--help", cwd=tmp_path, PYTHONPATH=str(installed))
    assert (done.returncode, done.stderr) == (0, "") and "recipes" in done.stdout


def test_a_recipe_is_copied_and_checked_and_one_is_written(
    in_turn: Commands, tmp_path: Path, materials: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTILLAB_MATERIALS", str(materials))
    models = materials / "models"
    pair = ["--teacher", str(models / "bitllama-3M-tok512"), "--student", str(models / "stories260K-tok512")]
    rows = ["--data", str(materials / "text" / "self-instruct" / "seed_tasks.jsonl"), "--device", "cpu"]
    in_turn(
        [
            ["recipes", "copy", "minimal"],
            ["train", "minimal.yaml", "--dry-run"],
            ["init", "mine.yaml", *pair, *rows],
        ]
    )
    assert {path.name for path in tmp_path.iterdir()} == {
        "minimal.yaml",
        "run.schema.json",
        "mine.yaml",
        "study.schema.json",
    }
